// One choice of an answer: engine events in, visible deltas out, and how it ended.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/engine/token_sink.h"
#include "runtime/tokenizer/assistant_parser.h"

namespace tandem::server {

struct TokenUsage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t reasoning_tokens = 0;
};

class ChatChoice {
 public:
  enum class End { kRunning, kStop, kLength, kToolCalls, kFailed };
  struct Options {
    AssistantParserOptions parser;
    bool first_call_only = false;            // parallel_tool_calls: false
    bool logprobs = false;                   // of the tokens that make up the content
    std::vector<int32_t> reported_stop_ids;  // the request's own stop_token_ids
  };

  ChatChoice(const Tokenizer& tokenizer, Options options);

  // Appends what became visible. True (once) when enough has come, by a stop string or the end of
  // the only call: the engine should abort the sequence; what it still sends is ignored.
  bool push(const TokenEvent& event, std::vector<AssistantDelta>& deltas);

  // JSON objects of logprobs.content, comma-separated, that have come since the last call.
  std::string take_logprobs();

  [[nodiscard]] End end() const { return end_; }
  [[nodiscard]] const std::string& failure() const { return failure_; }
  [[nodiscard]] const TokenUsage& usage() const { return usage_; }  // complete after the end
  // The stop string or stop token id that ended it as a JSON value; "null" for the model's own end.
  [[nodiscard]] std::string stop_reason_json() const;

 private:
  bool push_token(const TokenEvent& event, std::vector<AssistantDelta>& deltas);
  void finish(const TokenEvent& event, std::vector<AssistantDelta>& deltas);
  void append_logprobs(const TokenEvent& event);

  const Tokenizer& tokenizer_;
  Options options_;
  AssistantParser parser_;
  bool cut_ = false;  // we ended it, not the engine
  End end_ = End::kRunning;
  int32_t reported_stop_id_ = -1;
  std::string failure_;
  std::string logprobs_;
  TokenUsage usage_;
};

}  // namespace tandem::server
