// POST /v1/chat/completions: engine events to SSE frames or to one JSON body.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "server/chat/chat_exchange.h"

namespace tandem::server {

Result<PreparedChat, ApiError> prepare_chat(std::string_view body, const ServedModel& model);

Result<std::unique_ptr<Exchange>, ApiError> open_chat_completion(std::string_view body,
                                                                 const ServedModel& model);

struct AssistantMessage {
  std::string reasoning{};
  std::string content{};
  std::vector<ToolCall> tool_calls{};
  std::vector<TokenEvent> logprobs{};
  std::vector<int32_t> token_ids{};
};

class ChatCompletion : public ChatExchange {
 public:
  ChatCompletion(PreparedChat chat, const ServedModel& model);

  // Heavy Mode: the answers that this one was made of count in its usage and, when `shown`, come
  // with it as "trajectories", a list of choices.
  void add_rollouts(const ChatCompletion& rollouts, bool shown);
  // Of the choices; collected when not streamed.
  [[nodiscard]] const std::vector<AssistantMessage>& messages() const { return messages_; }

  [[nodiscard]] TokenUsage usage() const override;

  void append_stream_end(std::string& frames) override;  // usage when asked for, or error; [DONE]
  [[nodiscard]] std::string body() const override;

 private:
  void on_begin(int32_t choice_idx, std::string& frames) override;
  void on_deltas(int32_t choice_idx,
                 std::span<const AssistantDelta> deltas,
                 std::string& frames) override;
  void on_end(int32_t choice_idx, std::string& frames) override;

  void append_delta(int32_t choice_idx, const AssistantDelta& delta, std::string& frames);
  void begin_chunk(int32_t choice_idx, std::string& frames) const;
  void end_chunk(int32_t choice_idx, std::string& frames, bool with_prompt = false) const;
  void append_token_ids(std::string& out, std::span<const int32_t> ids) const;
  void append_logprobs(std::string& out, std::span<const TokenEvent> tokens) const;
  void append_choice(std::string& out, size_t choice_idx) const;
  void append_choices(std::string& out) const;

  const std::string role_;
  const std::string echo_;  // what the answer begins with, "" unless asked for
  bool has_begun_ = false;  // some choice has
  std::string head_json_;   // "created":...,"model":...,"system_fingerprint":...
  std::string chunk_head_;  // {... "choices":[
  std::vector<AssistantMessage> messages_;
  TokenUsage rollout_usage_;
  std::string trajectories_json_;  // "" unless they are to be shown
};

}  // namespace tandem::server
