// The part of a chat that all dialects share: one engine request a choice, events to deltas, ends,
// errors and usage. A dialect says how deltas look.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "server/chat/exchange.h"
#include "server/chat/invalid_calls.h"
#include "server/chat/prepared_chat.h"

namespace tandem::server {

class ChatExchange : public Exchange {
 public:
  [[nodiscard]] bool needs_preparation() const override {
    return !taken_ && needs_grammar(chat_, model_);
  }
  void prepare() override;
  std::vector<GenerationRequest> take_requests() override;
  bool push(int32_t choice_idx, const TokenEvent& event, std::string& frames) override;
  void fail(ApiError error) override { error_ = std::move(error); }
  [[nodiscard]] bool finished() const override;
  [[nodiscard]] const std::optional<ApiError>& error() const override { return error_; }
  [[nodiscard]] bool streams() const override { return chat_.request.stream; }
  [[nodiscard]] const std::string& id() const override { return id_; }
  [[nodiscard]] TokenUsage usage() const override;
  [[nodiscard]] int64_t num_invalid_calls() const override;

 protected:
  // `model` outlives the exchange.
  ChatExchange(PreparedChat chat, const ServedModel& model, std::string_view id_prefix);

  // The choice's first event, before anything else of it. Deltas come in order, those of several
  // tokens at once where the stream has an interval; the first at once, all of them before on_end.
  virtual void on_begin(int32_t choice_idx, std::string& frames) = 0;
  virtual void on_deltas(int32_t choice_idx,
                         std::span<const AssistantDelta> deltas,
                         std::string& frames) = 0;
  virtual void on_end(int32_t choice_idx, std::string& frames) = 0;

  [[nodiscard]] const ChatRequest& request() const { return chat_.request; }
  [[nodiscard]] const ServedModel& model() const { return model_; }
  [[nodiscard]] const std::string& model_name() const;  // as the client called it
  [[nodiscard]] int32_t num_prompt_tokens() const { return num_prompt_tokens_; }
  // Where the request wants token ids.
  [[nodiscard]] std::span<const int32_t> prompt_ids() const { return chat_.prompt_ids; }
  [[nodiscard]] size_t num_choices() const { return choices_.size(); }
  [[nodiscard]] ChatChoice& choice(size_t choice_idx) { return choices_[choice_idx].state; }
  [[nodiscard]] const ChatChoice& choice(size_t choice_idx) const {
    return choices_[choice_idx].state;
  }
  // Of the prompt's tokens from the second on, where the request asks for them.
  [[nodiscard]] std::span<const TokenEvent> prompt_logprobs() const { return prompt_logprobs_; }
  // Known when the choice has ended.
  [[nodiscard]] const std::vector<InvalidCall>& invalid_calls(size_t choice_idx) const {
    return choices_[choice_idx].invalid_calls;
  }

 private:
  struct Choice {
    ChatChoice state;
    bool begun = false;
    std::vector<ToolCall> calls{};  // so far
    std::vector<InvalidCall> invalid_calls{};
    // Have come and are not told yet; neighbours of one kind are joined.
    std::vector<AssistantDelta> held{};
    int32_t num_held_tokens = 0;
    bool told = false;  // some delta was
  };

  void note_calls(Choice& choice) const;
  void hold_deltas(Choice& choice);
  [[nodiscard]] bool is_due(const Choice& choice) const;
  void tell(int32_t choice_idx, std::string& frames);

  PreparedChat chat_;
  const ServedModel& model_;
  std::string id_;
  int32_t num_prompt_tokens_ = 0;
  int32_t stream_interval_ = 1;  // tokens between two tellings, at least
  bool taken_ = false;
  std::vector<Choice> choices_;
  std::vector<TokenEvent> prompt_logprobs_;
  std::vector<AssistantDelta> deltas_;  // scratch
  std::optional<ApiError> error_;
};

}  // namespace tandem::server
