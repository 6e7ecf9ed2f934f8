#include "runtime/grammar/number_range.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>

namespace tandem {
namespace {

constexpr int kMaxDigits = 15;
constexpr int64_t kLargestDecimal = 999'999'999'999'999;  // kMaxDigits digits
constexpr int kFractionDigits = 6;  // where the limits themselves have no more

void add_choice(std::string& choices, const std::string& choice) {
  if (!choices.empty()) choices += '|';
  choices += choice;
}

std::string grouped(const std::string& choices) { return fmt::format("({})", choices); }

std::string any_digits(int count) { return fmt::format("[0-9]{{{}}}", count); }

std::string digit_class(char first, char last) {
  return first == last ? fmt::format("{}", first) : fmt::format("[{}-{}]", first, last);
}

// A digit with `num_behind` digits behind it; the point follows where the fraction begins.
std::string point_behind(int num_behind, int num_fraction_digits) {
  return num_fraction_digits > 0 && num_behind == num_fraction_digits ? "\\." : "";
}

std::string rest_of_digits(int count, int num_fraction_digits) {
  if (count == 0) return "";
  if (num_fraction_digits == 0 || count <= num_fraction_digits) return any_digits(count);
  return fmt::format("{}\\.{}", any_digits(count - num_fraction_digits),
                     any_digits(num_fraction_digits));
}

bool is_all(std::string_view text, char digit) {
  return std::all_of(text.begin(), text.end(), [&](char c) { return c == digit; });
}

// Digit strings of one length between two of that length.
std::string same_length_range(std::string_view min, std::string_view max, int num_fraction_digits) {
  const int num_behind = static_cast<int>(min.size()) - 1;
  const std::string point = point_behind(num_behind, num_fraction_digits);
  const auto cut = [&](char digit, std::string_view low, std::string_view high) {
    return fmt::format("{}{}({})", digit, point, same_length_range(low, high, num_fraction_digits));
  };
  const std::string_view min_rest = min.substr(1);
  const std::string_view max_rest = max.substr(1);
  const std::string nines(min_rest.size(), '9');
  const std::string zeros(min_rest.size(), '0');
  if (min[0] == max[0] && num_behind > 0) return cut(min[0], min_rest, max_rest);
  const bool min_is_cut = !is_all(min_rest, '0');
  const bool max_is_cut = !is_all(max_rest, '9');
  const char first = static_cast<char>(min[0] + (min_is_cut ? 1 : 0));
  const char last = static_cast<char>(max[0] - (max_is_cut ? 1 : 0));
  std::string choices;
  if (min_is_cut) {
    add_choice(choices, cut(min[0], min_rest, nines));
  }
  if (first <= last) {
    add_choice(choices,
               digit_class(first, last) + point + rest_of_digits(num_behind, num_fraction_digits));
  }
  if (max_is_cut) {
    add_choice(choices, cut(max[0], zeros, max_rest));
  }
  return choices;
}

// n / 10^num_fraction_digits for 0 <= min <= n <= max.
std::string natural_range(int64_t min, int64_t max, int num_fraction_digits) {
  std::string choices;
  uint64_t power = 10;  // what is left has no fewer digits than it
  for (int digit_idx = 0; digit_idx < num_fraction_digits; ++digit_idx) power *= 10;
  const auto padded = [&](int64_t value) {
    return fmt::format("{:0>{}}", value, num_fraction_digits + 1);
  };
  for (int64_t first = min; first <= max; power *= 10) {
    if (static_cast<uint64_t>(first) >= power) continue;
    const int64_t last = static_cast<int64_t>(std::min(static_cast<uint64_t>(max), power - 1));
    add_choice(choices, same_length_range(padded(first), padded(last), num_fraction_digits));
    first = last + 1;
  }
  return choices;
}

std::string scaled_range(int64_t min, int64_t max, int num_fraction_digits) {
  std::string choices;
  if (max >= 0)
    add_choice(choices, natural_range(std::max<int64_t>(min, 0), max, num_fraction_digits));
  if (min < 0) {
    const int64_t least = std::max<int64_t>(1, -max);
    add_choice(choices, fmt::format("-({})", natural_range(least, -min, num_fraction_digits)));
  }
  return choices;
}

// value = digits / 10^num_fraction_digits, exactly as the shortest decimal that reads back.
struct Decimal {
  int64_t digits = 0;
  int num_fraction_digits = 0;
};

std::optional<Decimal> to_decimal(double value) {
  if (!(std::abs(value) <= static_cast<double>(kLargestDecimal))) return std::nullopt;
  for (int precision = 0; precision <= kMaxDigits; ++precision) {
    std::string text = fmt::format("{:.{}f}", value, precision);
    if (std::stod(text) != value) continue;
    text.erase(std::remove(text.begin(), text.end(), '.'), text.end());
    if (text.size() > kMaxDigits + 1) return std::nullopt;
    return Decimal{std::stoll(text), precision};
  }
  return std::nullopt;
}

int64_t floor_divide(int64_t value, int64_t divisor) {
  return value / divisor - (value % divisor < 0 ? 1 : 0);
}

// floor(limit * 10^num_fraction_digits), or ceil; within +-kLargestDecimal.
int64_t scaled(const Decimal& limit, int num_fraction_digits, bool round_up) {
  int64_t value = limit.digits;
  for (int idx = num_fraction_digits; idx < limit.num_fraction_digits; ++idx)
    value = round_up ? -floor_divide(-value, 10) : floor_divide(value, 10);
  for (int idx = limit.num_fraction_digits; idx < num_fraction_digits; ++idx) {
    if (std::abs(value) > kLargestDecimal / 10)
      return value < 0 ? -kLargestDecimal - 1 : kLargestDecimal + 1;
    value *= 10;
  }
  return value;
}

}  // namespace

std::string integer_range_regex(int64_t min, int64_t max) {
  return grouped(scaled_range(min, max, 0));
}

Result<std::string, GrammarError> decimal_range_regex(const DecimalRange& range) {
  std::optional<Decimal> min, max;
  if (range.min && !(min = to_decimal(*range.min)))
    return GrammarError{fmt::format("a limit of {} has too many digits", *range.min)};
  if (range.max && !(max = to_decimal(*range.max)))
    return GrammarError{fmt::format("a limit of {} has too many digits", *range.max)};
  int num_digits = kFractionDigits;
  if (min) num_digits = std::max(num_digits, min->num_fraction_digits);
  if (max) num_digits = std::max(num_digits, max->num_fraction_digits);
  if (range.num_fraction_digits) num_digits = *range.num_fraction_digits;
  std::string choices;
  for (int count = 0; count <= num_digits; ++count) {
    int64_t first = -kLargestDecimal;
    int64_t last = kLargestDecimal;
    // A limit is excluded by a step where it is one of these numbers, and else by rounding.
    if (min) {
      first = scaled(*min, count, true);
      if (range.min_excluded && first == scaled(*min, count, false)) ++first;
    }
    if (max) {
      last = scaled(*max, count, false);
      if (range.max_excluded && last == scaled(*max, count, true)) --last;
    }
    first = std::max(first, -kLargestDecimal);
    last = std::min(last, kLargestDecimal);
    if (first <= last) add_choice(choices, scaled_range(first, last, count));
  }
  if (choices.empty()) return GrammarError{};
  return grouped(choices);
}

}  // namespace tandem
