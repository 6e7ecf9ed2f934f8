#include "offload/warm_up.h"

#include <algorithm>

namespace tandem::offload {
namespace {

// A step of fewer rows reads weights and little else: nothing is chosen by its size.
constexpr int32_t kFewestRows = 32;
// More decode in one step rarely.
constexpr int32_t kMostSequences = 256;
// Keys are looked at some thousands at a time.
constexpr int32_t kMostKeys = 16'384;
constexpr int32_t kTokensOfLongContexts = 128;

// 32, 64, ... below `most`, then `most`.
std::vector<int32_t> sizes_up_to(int32_t most) {
  std::vector<int32_t> sizes;
  for (int32_t size = kFewestRows; size < most; size *= 2) sizes.push_back(size);
  if (most > 1) sizes.push_back(most);
  return sizes;
}

}  // namespace

std::vector<WarmUpStep> warm_up_steps(int32_t max_batch_tokens, int32_t max_context_tokens) {
  std::vector<WarmUpStep> steps;
  const int32_t most_tokens = std::min(max_batch_tokens, max_context_tokens);
  for (const int32_t num_tokens : sizes_up_to(most_tokens)) {
    steps.push_back({.num_tokens = num_tokens});
  }
  for (const int32_t num_sequences : sizes_up_to(std::min(max_batch_tokens, kMostSequences))) {
    steps.push_back({.num_sequences = num_sequences, .num_tokens = 1});
  }
  const int32_t num_tokens = std::min(most_tokens, kTokensOfLongContexts);
  for (const int32_t num_keys : sizes_up_to(std::min(max_context_tokens, kMostKeys))) {
    if (num_keys <= most_tokens) continue;
    steps.push_back({.num_tokens = num_tokens, .context_size_tokens = num_keys - num_tokens});
  }
  return steps;
}

WarmUpBatch::WarmUpBatch(const WarmUpStep& step, int32_t num_kv_pages, int32_t num_logit_rows)
    : token_ids_(static_cast<size_t>(step.num_rows()), 0) {
  const int32_t num_keys = step.context_size_tokens + step.num_tokens;
  const int32_t num_pages = (num_keys + kPageSizeTokens - 1) / kPageSizeTokens;
  for (int32_t page = 0; page < num_pages; ++page) page_ids_.push_back(page % num_kv_pages);
  for (int32_t idx = 0; idx < step.num_sequences; ++idx) {
    items_.push_back({.token_begin = idx * step.num_tokens,
                      .num_tokens = step.num_tokens,
                      .context_size_tokens = step.context_size_tokens,
                      .page_ids = page_ids_});
  }
  for (int32_t row = std::max(step.num_rows() - num_logit_rows, 0); row < step.num_rows(); ++row) {
    logit_token_idx_.push_back(row);
  }
}

}  // namespace tandem::offload
