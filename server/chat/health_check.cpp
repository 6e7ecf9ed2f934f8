#include "server/chat/health_check.h"

#include <limits>
#include <utility>

namespace tandem::server {
namespace {

class HealthCheck : public Exchange {
 public:
  explicit HealthCheck(const ServedModel& model) : model_(model), id_(new_id("health-")) {}

  std::vector<GenerationRequest> take_requests() override {
    std::vector<GenerationRequest> requests;
    if (std::exchange(taken_, true)) return requests;
    GenerationRequest& request = requests.emplace_back();
    request.prompt_ids = model_.tokenizer->encode("hello", Tokenizer::Specials::kAsText);
    request.sampling.temperature = 0.0f;
    request.max_new_tokens = 1;
    request.ignore_eos = true;
    request.priority = std::numeric_limits<int32_t>::min();
    return requests;
  }

  bool push(int32_t /*choice_idx*/, const TokenEvent& event, std::string& /*frames*/) override {
    if (event.kind != TokenEvent::Kind::kFinished) return false;
    finished_ = true;
    usage_ = {.prompt_tokens = event.prompt_tokens, .completion_tokens = event.completion_tokens};
    if (event.finish_reason == FinishReason::kLength) return false;
    fail(server_error(503, event.error.empty() ? "no token came" : event.error, "engine_failed"));
    return false;
  }

  void fail(ApiError error) override { error_ = std::move(error); }
  [[nodiscard]] bool finished() const override { return finished_ || error_; }
  [[nodiscard]] const std::optional<ApiError>& error() const override { return error_; }
  [[nodiscard]] bool streams() const override { return false; }
  void append_stream_end(std::string& /*frames*/) override {}
  [[nodiscard]] std::string body() const override { return R"({"status":"ok"})"; }
  [[nodiscard]] const std::string& id() const override { return id_; }
  [[nodiscard]] TokenUsage usage() const override { return usage_; }

 private:
  const ServedModel& model_;
  const std::string id_;
  bool taken_ = false;
  bool finished_ = false;
  TokenUsage usage_;
  std::optional<ApiError> error_;
};

}  // namespace

Result<std::unique_ptr<Exchange>, ApiError> open_health_check(std::string_view /*body*/,
                                                              const ServedModel& model) {
  return std::unique_ptr<Exchange>(std::make_unique<HealthCheck>(model));
}

}  // namespace tandem::server
