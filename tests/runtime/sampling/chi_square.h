// Whether counts are those of a distribution.
#pragma once

#include <cmath>
#include <cstdint>
#include <span>

namespace tandem::tests {

struct ChiSquare {
  double statistic = 0.0;
  double threshold = 0.0;  // exceeded by chance with probability 1e-6

  [[nodiscard]] bool fits() const { return statistic <= threshold; }
};

// Categories with fewer than five expected draws are joined into one, as the approximation asks
// for; a draw of an impossible category never fits.
inline ChiSquare chi_square(std::span<const int64_t> counts,
                            std::span<const double> probabilities,
                            int64_t num_draws) {
  double rare_expected = 0.0, rare_count = 0.0, statistic = 0.0;
  int num_categories = 0;
  const auto add = [&](double count, double expected) {
    statistic += (count - expected) * (count - expected) / expected;
    ++num_categories;
  };
  for (size_t category_idx = 0; category_idx < counts.size(); ++category_idx) {
    const double expected = probabilities[category_idx] * static_cast<double>(num_draws);
    const double count = static_cast<double>(counts[category_idx]);
    if (expected == 0.0 && count > 0.0) return {.statistic = INFINITY, .threshold = 0.0};
    if (expected >= 5.0) {
      add(count, expected);
    } else {
      rare_expected += expected;
      rare_count += count;
    }
  }
  if (rare_expected >= 5.0) add(rare_count, rare_expected);
  // Wilson and Hilferty: (X / k)^(1/3) is nearly normal with mean 1 - 2/(9k), variance 2/(9k).
  const double degrees = num_categories - 1;
  constexpr double kNormalQuantile = 4.753;  // of 1 - 1e-6
  const double spread = 2.0 / (9.0 * degrees);
  const double root = 1.0 - spread + kNormalQuantile * std::sqrt(spread);
  return {.statistic = statistic, .threshold = degrees * root * root * root};
}

}  // namespace tandem::tests
