#include "runtime/engine/repetition.h"

#include <algorithm>

namespace tandem {

bool ends_in_repetition(std::span<const int32_t> token_ids, const RepetitionLimit& limit) {
  for (int64_t size = limit.min_pattern_tokens; size <= limit.max_pattern_tokens; ++size) {
    const auto num_tokens = static_cast<size_t>(size * limit.min_count);
    if (num_tokens > token_ids.size()) return false;
    const auto last = token_ids.last(num_tokens);
    // Every token is the one that stands a pattern before it; seen from the end, where they differ.
    if (std::equal(last.rbegin(), last.rend() - size, last.rbegin() + size)) return true;
  }
  return false;
}

}  // namespace tandem
