// How far rows of logits are from each other.
#pragma once

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

namespace tandem::tests {

// Root mean square of the difference over root mean square of the reference, one row.
inline double relative_rms(std::span<const float> actual, std::span<const float> expected) {
  double error = 0.0;
  double norm = 0.0;
  for (size_t idx = 0; idx < expected.size(); ++idx) {
    const double difference = static_cast<double>(actual[idx]) - expected[idx];
    error += difference * difference;
    norm += static_cast<double>(expected[idx]) * expected[idx];
  }
  return std::sqrt(error / norm);
}

// Relative error of every row of `actual`, in the order of the tokens.
inline std::vector<double> row_errors(const std::vector<float>& actual,
                                      const std::vector<float>& expected,
                                      int32_t vocab_size) {
  REQUIRE(actual.size() == expected.size());
  const auto row_size = static_cast<size_t>(vocab_size);
  std::vector<double> errors;
  for (size_t begin = 0; begin < actual.size(); begin += row_size) {
    errors.push_back(
        relative_rms({actual.data() + begin, row_size}, {expected.data() + begin, row_size}));
    REQUIRE(std::isfinite(errors.back()));
  }
  return errors;
}

inline double quantile(std::vector<double> values, double share) {
  std::sort(values.begin(), values.end());
  return values[static_cast<size_t>(share * static_cast<double>(values.size() - 1))];
}

}  // namespace tandem::tests
