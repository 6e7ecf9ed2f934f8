// POST /v1/completions: plain text in and out, without chat format: thinking and tool markers are
// text. Echo and logprobs cover the prompt, which is what log-likelihood evaluations read.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/exchange.h"
#include "server/openai/text_request.h"

namespace tandem::server {

Result<std::unique_ptr<Exchange>, ApiError> open_text_completion(std::string_view body,
                                                                 const ServedModel& model);

class TextCompletion;

// The same before it is one of many.
Result<std::unique_ptr<TextCompletion>, ApiError> make_text_completion(std::string_view body,
                                                                       const ServedModel& model);

class TextCompletion : public Exchange {
 public:
  TextCompletion(TextRequest request,
                 std::vector<int32_t> max_new_tokens,
                 const ServedModel& model);

  [[nodiscard]] bool needs_preparation() const override;
  void prepare() override;
  std::vector<GenerationRequest> take_requests() override;
  bool push(int32_t choice_idx, const TokenEvent& event, std::string& frames) override;
  void fail(ApiError error) override { error_ = std::move(error); }
  [[nodiscard]] bool finished() const override;
  [[nodiscard]] const std::optional<ApiError>& error() const override { return error_; }
  [[nodiscard]] bool streams() const override { return request_.stream; }
  void append_stream_end(std::string& frames) override;
  [[nodiscard]] std::string body() const override;
  [[nodiscard]] const std::string& id() const override { return id_; }
  [[nodiscard]] TokenUsage usage() const override;
  [[nodiscard]] const TextRequest& request() const { return request_; }

 private:
  // Choice c answers prompt c / n.
  struct Choice {
    ChatChoice state;
    std::string text{};                // since the last chunk when streamed
    std::vector<TokenEvent> tokens{};  // with logprobs: of that text
    int64_t text_size_chars = 0;       // of the tokens told so far: text_offset of the next
    bool told_prompt = false;
    std::vector<int32_t> token_ids{};  // since the last chunk when streamed
    int32_t num_held_tokens = 0;       // the same, counted
    bool has_chunk = false;            // one was sent
  };

  [[nodiscard]] size_t prompt_idx_of(size_t choice_idx) const;
  [[nodiscard]] bool is_first_of_prompt(size_t choice_idx) const;
  [[nodiscard]] const std::vector<int32_t>& prompt_of(size_t choice_idx) const;
  [[nodiscard]] AnswerRules answer_rules() const;
  void begin_with_prompt(size_t choice_idx);
  void append_chunk(size_t choice_idx, std::string& frames);
  void append_choice(std::string& out, size_t choice_idx, const Choice& choice) const;
  void append_logprobs(std::string& out, const Choice& choice) const;
  [[nodiscard]] bool is_due(const Choice& choice) const;
  [[nodiscard]] std::string head_json(std::string_view choices_open) const;

  TextRequest request_;
  std::vector<int32_t> max_new_tokens_;  // of each prompt
  const ServedModel& model_;
  std::shared_ptr<const AnswerGrammar> grammar_;  // of the format, once compiled
  std::string id_;
  int64_t created_unix_s_ = 0;
  bool taken_ = false;
  std::vector<Choice> choices_;
  // With prompt_logprobs: of each prompt from its second token on.
  std::vector<std::vector<TokenEvent>> prompt_tokens_;
  std::vector<AssistantDelta> deltas_;  // scratch
  std::optional<ApiError> error_;
};

}  // namespace tandem::server
