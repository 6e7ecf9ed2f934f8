// A chat request on its way: body to prompt and engine requests, engine events to SSE frames or to
// one JSON body. No sockets, no threads of its own.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/engine/engine.h"
#include "server/openai/chat_choice.h"
#include "server/openai/chat_request.h"
#include "server/openai/errors.h"
#include "server/openai/served_model.h"

namespace tandem::server {

// A checked request whose prompt is rendered and fits.
struct PreparedChat {
  ChatRequest request;
  std::vector<int32_t> prompt_ids;
  int32_t num_history_tool_calls = 0;
  int32_t max_new_tokens = 0;
};

// Parses, renders and measures; the slow part of a request on this side of the engine.
Result<PreparedChat, ApiError> prepare_chat(std::string_view body, const ServedModel& model);

// The engine request of one choice, without its sink. Choices differ in their seeds.
GenerationRequest generation_request(const PreparedChat& chat,
                                     const ServedModel& model,
                                     int32_t choice_idx);

class ChatCompletion {
 public:
  ChatCompletion(const PreparedChat& chat, const ServedModel& model);

  // Takes an event of one choice; for a stream, frames are appended. True when the engine should
  // abort that choice's sequence.
  bool push(int32_t choice_idx, const TokenEvent& event, std::string& frames);

  [[nodiscard]] bool finished() const;  // every choice has ended, or one has failed
  [[nodiscard]] const std::optional<ApiError>& error() const { return error_; }

  // The frames behind the last event: usage when asked for, an error if there was one, [DONE].
  void append_stream_end(std::string& frames) const;
  [[nodiscard]] std::string body() const;  // the whole answer, not streamed

  [[nodiscard]] const std::string& id() const { return id_; }
  [[nodiscard]] TokenUsage total_usage() const;

 private:
  struct Choice {
    ChatChoice state;
    bool announced = false;  // the first chunk, with the role, was written
    std::string reasoning;
    std::string content;
    std::vector<ToolCall> tool_calls;
    std::string logprobs;
  };

  void append_delta(int32_t choice_idx, const AssistantDelta& delta, std::string& frames);
  void append_end(int32_t choice_idx, std::string& frames);
  void begin_chunk(int32_t choice_idx, std::string& frames) const;
  void collect(Choice& choice, const AssistantDelta& delta) const;

  bool stream_;
  bool include_usage_;
  bool include_reasoning_;
  bool logprobs_;
  std::string id_;
  std::string head_json_;   // "created":...,"model":...,"system_fingerprint":...
  std::string chunk_head_;  // data: {... "choices":[{"index":
  std::vector<Choice> choices_;
  std::vector<AssistantDelta> deltas_;  // scratch
  std::optional<ApiError> error_;
};

}  // namespace tandem::server
