// What the request log says of one request. No dialect in it: the engine's side of all of them.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/engine/engine.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_choice.h"
#include "server/tracing/trace_context.h"

namespace tandem::server {

class JsonWriter;

class RequestRecord {
 public:
  // `with_content`: of prompts and answers, too.
  RequestRecord(std::string endpoint, std::string request_id, bool with_content);

  // All of it on one thread at a time.
  void keep_body(const std::string& body);  // JSON
  void note_answer(std::string answer_id, std::string model, bool streams);
  void note_request(const GenerationRequest& request);           // one for each choice
  void note_event(int32_t choice_idx, const TokenEvent& event);  // as it is read
  // The server aborts what the engine would go on with: a stop.
  void note_complete(int32_t choice_idx);
  void end(const std::optional<ApiError>& error, bool client_gone, const TokenUsage& usage);

  // Behind end(), on any thread:

  [[nodiscard]] size_t size_bytes() const;  // about what its line will take
  // One object without a line break. Answers are text with the markers of the format in it.
  [[nodiscard]] std::string to_json_line(const Tokenizer* tokenizer) const;
  // The request as OTLP's span, without content; attributes under vLLM's names.
  [[nodiscard]] std::string to_span_json(const TraceContext& context) const;

 private:
  using Clock = std::chrono::steady_clock;
  struct Choice {
    std::optional<FinishReason> finish_reason;
    bool is_complete = false;  // before the engine's last event
    int32_t completion_tokens = 0;
    std::vector<int32_t> token_ids;  // with content alone
  };
  struct Asked {
    SamplingParams sampling;
    int32_t max_new_tokens = 0;
    int32_t priority = 0;
  };

  [[nodiscard]] const char* outcome() const;
  void append_choices(JsonWriter& writer, const Tokenizer* tokenizer) const;
  void append_times(JsonWriter& writer) const;
  void append_sampling(JsonWriter& writer) const;

  const bool with_content_;
  const std::string endpoint_, request_id_;
  const std::chrono::system_clock::time_point time_;
  const Clock::time_point begin_;
  std::string answer_id_, model_, body_;
  bool streams_ = false;
  std::optional<Asked> asked_;  // for the first choice
  std::vector<Choice> choices_;
  std::optional<Clock::time_point> first_token_;
  Clock::time_point end_;
  std::chrono::nanoseconds queue_wait_{0};  // of the first choice
  TokenUsage usage_;
  std::optional<ApiError> error_;
  bool client_gone_ = false;
};

}  // namespace tandem::server
