#include "runtime/engine/active_request.h"

#include <algorithm>

namespace tandem {

ActiveRequest::ActiveRequest(uint64_t id, uint64_t seed, GenerationRequest request)
    : request_id(id),
      sampler(request.sampling, seed, request.prompt_ids),
      max_new_tokens(request.max_new_tokens),
      min_new_tokens(request.min_new_tokens),
      num_logprobs(request.num_logprobs),
      repetition(request.repetition),
      constraint(std::move(request.constraint)),
      sink(std::move(request.sink)) {
  if (!request.ignore_eos) stop_token_ids = std::move(request.stop_token_ids);
  sequence.token_ids = std::move(request.prompt_ids);
  sequence.num_prompt_tokens = sequence.num_tokens();
  sequence.priority = request.priority;
  sequence.cache_salt = std::move(request.cache_salt);
  sequence.max_total_tokens = sequence.num_prompt_tokens + max_new_tokens;
  if (request.prompt_logprobs && sequence.num_prompt_tokens > 1) {
    next_prompt_logprob_idx = 1;
    sequence.wants_all_logits = true;
  }
  // Room for most answers, so that steps need not allocate; long ones grow.
  constexpr int32_t kReservedNewTokens = 4096;
  const int32_t num_reserved =
      sequence.num_prompt_tokens + std::min(max_new_tokens, kReservedNewTokens);
  sequence.token_ids.reserve(num_reserved);
  sequence.page_hashes.reserve(num_pages_for(num_reserved));
}

std::span<const int32_t> ActiveRequest::banned_token_ids(bool may_end) const {
  if (may_end && num_new_tokens >= min_new_tokens) return {};
  return stop_token_ids;
}

bool ActiveRequest::is_stop_token(int32_t token_id) const {
  return std::find(stop_token_ids.begin(), stop_token_ids.end(), token_id) != stop_token_ids.end();
}

bool ActiveRequest::repeats_itself() const {
  const auto num_prompt_tokens = static_cast<size_t>(sequence.num_prompt_tokens);
  return ends_in_repetition(std::span(sequence.token_ids).subspan(num_prompt_tokens), repetition);
}

}  // namespace tandem
