// One choice of an answer: engine events in, visible deltas out, and how it ended.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "runtime/engine/token_sink.h"
#include "runtime/tokenizer/assistant_parser.h"
#include "server/chat/api_error.h"

namespace tandem::server {

struct TokenUsage {
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;
  int32_t completion_tokens = 0;
  int32_t reasoning_tokens = 0;
};

class ChatChoice {
 public:
  enum class End { kRunning, kStop, kLength, kToolCalls, kRepetition, kAborted, kFailed };
  struct Options {
    AssistantParserOptions parser;
    bool first_call_only = false;            // parallel_tool_calls: false
    bool logprobs = false;                   // of the tokens that make up the content
    bool token_ids = false;                  // of all tokens are kept
    std::vector<int32_t> reported_stop_ids;  // the request's own stop_token_ids
  };

  ChatChoice(const Tokenizer& tokenizer, Options options);

  // Appends what became visible. True (once) when enough has come, by a stop string or the end of
  // the only call: the engine should abort the sequence; what it still sends is ignored.
  bool push(const TokenEvent& event, std::vector<AssistantDelta>& deltas);

  // The tokens of the content that have been shown since the last call, if only in part; of an
  // ended choice all that are left but those that a stop has cut off. Empty unless asked for.
  std::vector<TokenEvent> take_logprobs();
  // All tokens that have come since the last call, or the first of them; markers, thinking and the
  // stop token included: of an ended choice as many as usage().completion_tokens says. Empty unless
  // asked for.
  std::vector<int32_t> take_token_ids() { return take_token_ids(token_ids_.size()); }
  std::vector<int32_t> take_token_ids(size_t max_tokens);

  [[nodiscard]] End end() const { return end_; }
  // Of one that failed.
  [[nodiscard]] const ApiError& error() const { return error_; }
  // It ended in the middle of a call.
  [[nodiscard]] bool in_unclosed_call() const { return parser_.in_unclosed_call(); }
  // So far; of the prompt nothing before the end.
  [[nodiscard]] const TokenUsage& usage() const { return usage_; }
  [[nodiscard]] const std::optional<std::string>& matched_stop() const {
    return parser_.matched_stop();
  }
  // The request's own stop token that ended it, or -1.
  [[nodiscard]] int32_t reported_stop_id() const { return reported_stop_id_; }

 private:
  struct ContentToken {
    TokenEvent event;
    size_t text_begin = 0;  // in bytes of content
  };

  bool push_token(const TokenEvent& event, std::vector<AssistantDelta>& deltas);
  void finish(const TokenEvent& event, std::vector<AssistantDelta>& deltas);

  const Tokenizer& tokenizer_;
  Options options_;
  AssistantParser parser_;
  bool cut_ = false;  // we ended it, not the engine
  End end_ = End::kRunning;
  int32_t reported_stop_id_ = -1;
  ApiError error_;
  size_t num_shown_bytes_ = 0;          // of content
  std::vector<ContentToken> logprobs_;  // not taken yet
  std::vector<int32_t> token_ids_;
  TokenUsage usage_;
};

}  // namespace tandem::server
