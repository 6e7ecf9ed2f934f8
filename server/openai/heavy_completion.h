// Heavy Mode: several answers to one request side by side over the KV pages of its prompt, then one
// pass that makes the final answer of them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "server/openai/chat_completion.h"

namespace tandem::server {

class HeavyCompletion : public Exchange {
 public:
  // `chat` asks for request.heavy->num_trajectories.
  HeavyCompletion(PreparedChat chat, const ServedModel& model);

  [[nodiscard]] bool needs_preparation() const override;
  void prepare() override;
  std::vector<GenerationRequest> take_requests() override;
  bool push(int32_t choice_idx, const TokenEvent& event, std::string& frames) override;
  void fail(ApiError error) override;
  [[nodiscard]] bool finished() const override;
  [[nodiscard]] const std::optional<ApiError>& error() const override;
  [[nodiscard]] bool streams() const override { return request_.stream; }
  void append_stream_end(std::string& frames) override;
  [[nodiscard]] std::string body() const override;
  [[nodiscard]] const std::string& id() const override { return rollouts_->id(); }
  [[nodiscard]] TokenUsage usage() const override;
  [[nodiscard]] int64_t num_invalid_calls() const override {
    return final_ ? final_->num_invalid_calls() : 0;  // trajectories' calls are not run
  }

 private:
  void begin_final();

  const ServedModel& model_;
  ChatRequest request_;  // as the client sent it: what the final pass asks again
  std::unique_ptr<ChatCompletion> rollouts_;
  std::unique_ptr<ChatCompletion> final_;  // from the end of the rollouts on
  std::optional<ApiError> error_;
};

}  // namespace tandem::server
