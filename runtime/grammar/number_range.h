// Numbers of a range as regular expressions, digit by digit.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/base/result.h"
#include "runtime/grammar/grammar_error.h"

namespace tandem {

// Integers are written with at most 18 digits, so that every reader can hold them.
inline constexpr int64_t kLargestInteger = 999'999'999'999'999'999;

// The integers from `min` to `max` without leading zeros; min <= max, both within
// +-kLargestInteger.
std::string integer_range_regex(int64_t min, int64_t max);

struct DecimalRange {
  std::optional<double> min, max;
  bool min_excluded = false, max_excluded = false;
  std::optional<int> num_fraction_digits;  // at most so many digits behind the point
};
// Decimal numbers in the range, without exponent and with at most 15 digits in all, which
// doubles tell apart. An error when a limit has more digits than that; without a message when no
// number is in the range.
Result<std::string, GrammarError> decimal_range_regex(const DecimalRange& range);

}  // namespace tandem
