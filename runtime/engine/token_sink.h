// Where the engine's tokens go: implemented by the server with a channel, by tests with a vector.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace tandem {

struct TokenLogprob {
  int32_t token_id = -1;
  float logprob = 0.0f;
};

enum class FinishReason { kStop, kLength, kRepetition, kAborted, kError };

struct TokenEvent {
  // kPromptToken: a token of the prompt with its logprob, in order, before any kToken.
  enum class Kind { kPromptToken, kToken, kFinished };
  Kind kind = Kind::kToken;
  // kPromptToken, kToken
  int32_t token_id = -1;
  float logprob = 0.0f;  // of the unmodified distribution; valid when logprobs were asked for
  int32_t rank = 0;      // kPromptToken: 1 for the most likely token, 2 for the next, ...
  std::vector<TokenLogprob> top_logprobs;  // descending
  // kFinished, the last event of a request; always sent exactly once
  FinishReason finish_reason = FinishReason::kStop;
  int32_t stop_token_id = -1;  // the token that ended it (not sent as kToken), or -1
  int32_t prompt_tokens = 0;
  int32_t cached_tokens = 0;               // prompt tokens whose KV was found
  int32_t completion_tokens = 0;           // the stop token counts
  std::chrono::nanoseconds queue_wait{0};  // from submit() to the first step, or to the end
  std::string error;  // kError: what happened; kAborted: why, unless somebody called abort()
  // kError: by what the request itself demands, which left nothing to say or took too long.
  bool by_demand = false;
};

class TokenSink {
 public:
  virtual ~TokenSink() = default;
  // Called on the engine thread; never blocks. False: the receiver is gone or too slow, the request
  // is aborted.
  virtual bool push(TokenEvent event) noexcept = 0;
};

}  // namespace tandem
