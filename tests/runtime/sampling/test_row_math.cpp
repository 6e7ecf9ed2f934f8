#include "runtime/sampling/row_math.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <random>

namespace tandem {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

TEST_CASE("exp is within its stated error over its whole range", "[sampling]") {
  double worst = 0.0;
  for (int step = 0; step <= 500'000; ++step) {
    const float x = -86.9f * static_cast<float>(step) / 500'000.0f;
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::abs(exp_of_nonpositive(x) - exact) / exact);
  }
  CHECK(worst < 3e-7);
  CHECK(exp_of_nonpositive(0.0f) == 1.0f);
  CHECK(exp_of_nonpositive(-0.0f) == 1.0f);
  for (const float x : {-87.5f, -1000.0f, -3e38f, -kInf, kNaN})
    CHECK(exp_of_nonpositive(x) == 0.0f);
}

TEST_CASE("the largest value is found at every place of every length, past NaN", "[sampling]") {
  for (size_t row_size = 1; row_size < 70; ++row_size) {
    for (size_t best_idx = 0; best_idx < row_size; ++best_idx) {
      std::vector<float> row(row_size, -5.0f);
      row[0] = kNaN;
      row[row_size / 2] = kNaN;
      row[best_idx] = -1.0f;
      CHECK(max_of(row) == -1.0f);
      std::vector<float> clean(row_size);
      CHECK(copy_without_nan(row, clean) == -1.0f);
      CHECK(std::none_of(clean.begin(), clean.end(), [](float x) { return std::isnan(x); }));
    }
    CHECK(max_of(std::vector<float>(row_size, kNaN)) == -kInf);
    CHECK(max_of(std::vector<float>(row_size, -kInf)) == -kInf);
  }
}

TEST_CASE("weights and their block sums equal those of libm", "[sampling]") {
  std::mt19937 rng(1);
  std::normal_distribution<float> normal(0.0f, 4.0f);
  for (const size_t row_size : {1u, 7u, 8u, 1023u, 1024u, 1025u, 5000u}) {
    std::vector<float> row(row_size), weights(row_size);
    for (float& value : row) value = normal(rng);
    const float max = max_of(row);
    std::vector<double> block_sums;
    const double sum = exp_weights(row, max, 0.7f, weights, block_sums);
    double expected_sum = 0.0;
    for (size_t idx = 0; idx < row_size; ++idx) {
      const double x = (static_cast<double>(row[idx]) - max) * 0.7;
      expected_sum += std::exp(x);
      // exp's own 3e-7, and an argument rounded twice to float: relative |x| * 2^-23.
      CHECK(std::abs(weights[idx] - std::exp(x)) <= std::exp(x) * (3e-7 - x * 1.2e-7));
    }
    CHECK(std::abs(sum / expected_sum - 1.0) < 1e-6);
    CHECK(block_sums.size() == (row_size + 1023) / 1024);
  }
}

TEST_CASE("the best k equal a full sort's, lower ids first among equals", "[sampling]") {
  std::mt19937 rng(2);
  std::vector<ScoredToken> best;
  for (int case_idx = 0; case_idx < 300; ++case_idx) {
    const size_t row_size = 1 + rng() % 6000;
    const int num_levels = case_idx % 3 == 0 ? 3 : 1 << 20;  // few levels: many ties
    std::vector<float> row(row_size);
    for (float& value : row) {
      value = static_cast<float>(rng() % static_cast<unsigned>(num_levels));
      if (rng() % 50 == 0) value = -kInf;
      if (rng() % 50 == 0) value = kNaN;
    }
    if (case_idx % 7 == 0) std::sort(row.begin(), row.end());  // every value beats the threshold
    const int64_t num_best = static_cast<int64_t>(rng() % (row_size + 3));
    std::vector<ScoredToken> expected;
    for (size_t idx = 0; idx < row_size; ++idx) {
      if (row[idx] > -kInf) expected.push_back({static_cast<int32_t>(idx), row[idx]});
    }
    std::stable_sort(
        expected.begin(), expected.end(),
        [](const ScoredToken& left, const ScoredToken& right) { return left.score > right.score; });
    expected.resize(std::min(expected.size(), static_cast<size_t>(num_best)));
    select_best(row, num_best, best);
    INFO("case " << case_idx << ", row of " << row_size << ", best " << num_best);
    REQUIRE(best.size() == expected.size());
    for (size_t idx = 0; idx < best.size(); ++idx)
      REQUIRE(best[idx].token_id == expected[idx].token_id);
  }
}

}  // namespace
}  // namespace tandem
