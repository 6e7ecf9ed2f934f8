#include "runtime/engine/request_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <utility>

#include "runtime/sampling/sampling_check.h"

namespace tandem {
namespace {

std::optional<std::string> find_invalid_field(const GenerationRequest& request,
                                              int32_t vocab_size) {
  if (request.sink == nullptr) return "sink is missing";
  if (request.prompt_ids.empty()) return "the prompt is empty, expected at least one token";
  const auto is_unknown = [&](int32_t token_id) { return token_id < 0 || token_id >= vocab_size; };
  const auto unknown =
      std::find_if(request.prompt_ids.begin(), request.prompt_ids.end(), is_unknown);
  if (unknown != request.prompt_ids.end()) {
    return fmt::format("prompt token {} is {}, expected 0 to {}",
                       unknown - request.prompt_ids.begin(), *unknown, vocab_size - 1);
  }
  if (request.max_new_tokens < 1)
    return fmt::format("max_tokens is {}, expected at least 1", request.max_new_tokens);
  if (request.min_new_tokens < 0 || request.min_new_tokens > request.max_new_tokens) {
    return fmt::format("min_tokens is {}, expected 0 to max_tokens ({})", request.min_new_tokens,
                       request.max_new_tokens);
  }
  for (const int32_t token_id : request.stop_token_ids) {
    if (is_unknown(token_id)) {
      return fmt::format("stop_token_ids names token {}, expected 0 to {}", token_id,
                         vocab_size - 1);
    }
  }
  if (request.num_logprobs < -1 || request.num_logprobs > vocab_size) {
    return fmt::format("logprobs is {}, expected 0 to {}", request.num_logprobs, vocab_size);
  }
  const RepetitionLimit& repetition = request.repetition;
  if (repetition.min_pattern_tokens < 1 || repetition.min_count < 2) {
    return fmt::format("repetition is {} tokens {} times, expected at least 1 token twice",
                       repetition.min_pattern_tokens, repetition.min_count);
  }
  return find_invalid_sampling(request.sampling, vocab_size);
}

}  // namespace

std::optional<SubmitError> find_invalid_request(const GenerationRequest& request,
                                                const RequestLimits& limits) {
  if (std::optional<std::string> message = find_invalid_field(request, limits.vocab_size))
    return SubmitError{SubmitError::Kind::kInvalid, std::move(*message)};
  const int64_t num_prompt_tokens = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t num_total_tokens = num_prompt_tokens + request.max_new_tokens;
  if (num_total_tokens <= limits.max_context_tokens) return std::nullopt;
  return SubmitError{
      SubmitError::Kind::kContextTooLong,
      fmt::format("This model's maximum context length is {} tokens. However, you requested {} "
                  "tokens ({} in the messages, {} in the completion). Please reduce the length of "
                  "the messages or completion.",
                  limits.max_context_tokens, num_total_tokens, num_prompt_tokens,
                  request.max_new_tokens)};
}

}  // namespace tandem
