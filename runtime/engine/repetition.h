// Answers that go round in circles.
#pragma once

#include <cstdint>
#include <span>

namespace tandem {

// A pattern of min_pattern_tokens to max_pattern_tokens that stands min_count times in a row ends
// an answer.
struct RepetitionLimit {
  int32_t min_pattern_tokens = 1;  // >= 1
  int32_t max_pattern_tokens = 0;  // 0: nothing ends an answer
  int32_t min_count = 2;           // >= 2
};

// Whether the end of `token_ids` is such a repetition. A comparison a size of pattern where it is
// not.
bool ends_in_repetition(std::span<const int32_t> token_ids, const RepetitionLimit& limit);

}  // namespace tandem
