#include "runtime/sampling/row_math.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace tandem {
namespace {

constexpr float kNegativeInfinity = -std::numeric_limits<float>::infinity();
constexpr size_t kNumLanes = 16;

// x = n ln2 + r, |r| <= ln2 / 2; e^x = 2^n e^r. The Taylor polynomial of degree 7 leaves
// r^8 / 8! < 6e-9; rounding leaves the rest of the stated error.
inline float exp_kernel(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits: n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it leaves an integer in the low bits
  const float shifted = x * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (x - n * kLn2High) - n * kLn2Low;
  float sum = 1.0f / 5040.0f;
  sum = sum * r + 1.0f / 720.0f;
  sum = sum * r + 1.0f / 120.0f;
  sum = sum * r + 1.0f / 24.0f;
  sum = sum * r + 1.0f / 6.0f;
  sum = sum * r + 0.5f;
  sum = sum * r + 1.0f;
  sum = sum * r + 1.0f;
  const uint32_t exponent = (std::bit_cast<uint32_t>(shifted) + 127u) << 23;
  const float power = std::bit_cast<float>(exponent);
  // A mask: a choice between values becomes a branch, and a loop with that one is not vectorised.
  const uint32_t mask = 0u - uint32_t{x > -87.0f};
  return std::bit_cast<float>(std::bit_cast<uint32_t>(sum * power) & mask);
}

bool is_better(const ScoredToken& left, const ScoredToken& right) {
  return left.score > right.score || (left.score == right.score && left.token_id < right.token_id);
}

double sum_of(const float* values, size_t num_values) {
  std::array<double, 8> lanes{};
  size_t value_idx = 0;
  for (; value_idx + 8 <= num_values; value_idx += 8) {
    for (size_t lane_idx = 0; lane_idx < 8; ++lane_idx)
      lanes[lane_idx] += static_cast<double>(values[value_idx + lane_idx]);
  }
  for (; value_idx < num_values; ++value_idx) lanes[0] += static_cast<double>(values[value_idx]);
  double sum = 0.0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

float exp_of_nonpositive(float x) { return exp_kernel(x); }

float max_of(std::span<const float> row) {
  std::array<float, kNumLanes> lanes;
  lanes.fill(kNegativeInfinity);
  size_t value_idx = 0;
  for (; value_idx + kNumLanes <= row.size(); value_idx += kNumLanes) {
    for (size_t lane_idx = 0; lane_idx < kNumLanes; ++lane_idx) {
      const float value = row[value_idx + lane_idx];
      lanes[lane_idx] = value > lanes[lane_idx] ? value : lanes[lane_idx];  // false for NaN
    }
  }
  float max = kNegativeInfinity;
  for (; value_idx < row.size(); ++value_idx) max = row[value_idx] > max ? row[value_idx] : max;
  for (const float lane : lanes) max = lane > max ? lane : max;
  return max;
}

float copy_without_nan(std::span<const float> from, std::span<float> to) {
  for (size_t value_idx = 0; value_idx < from.size(); ++value_idx) {
    const float value = from[value_idx];
    to[value_idx] = value == value ? value : kNegativeInfinity;
  }
  return max_of(to);
}

double exp_weights(std::span<const float> row,
                   float max,
                   float scale,
                   std::span<float> weights,
                   std::vector<double>& block_sums) {
  block_sums.clear();
  double sum = 0.0;
  for (size_t block_begin = 0; block_begin < row.size(); block_begin += kWeightBlock) {
    const size_t block_size = std::min<size_t>(kWeightBlock, row.size() - block_begin);
    const float* values = row.data() + block_begin;
    float* block_weights = weights.data() + block_begin;
    for (size_t value_idx = 0; value_idx < block_size; ++value_idx)
      block_weights[value_idx] = exp_kernel((values[value_idx] - max) * scale);
    block_sums.push_back(sum_of(block_weights, block_size));
    sum += block_sums.back();
  }
  return sum;
}

void select_best(std::span<const float> row, int64_t num_best, std::vector<ScoredToken>& best) {
  best.clear();
  if (num_best <= 0) return;
  const size_t num_kept = static_cast<size_t>(std::min<int64_t>(num_best, row.size()));
  const size_t capacity = std::min(std::max<size_t>(2 * num_kept, 1024), row.size() + 1);
  best.reserve(capacity);
  // Candidates gather until there are twice too many; then the worse half goes, and what does not
  // beat the worst one left need not be looked at. Ids ascend, so a later equal value is worse.
  float threshold = kNegativeInfinity;
  const auto drop_worse = [&] {
    std::nth_element(best.begin(), best.begin() + (num_kept - 1), best.end(), is_better);
    best.resize(num_kept);
    threshold = best.back().score;
  };
  for (size_t token_idx = 0; token_idx < row.size(); ++token_idx) {
    if (!(row[token_idx] > threshold)) continue;
    best.push_back({static_cast<int32_t>(token_idx), row[token_idx]});
    if (best.size() == capacity && best.size() > num_kept) drop_worse();
  }
  if (best.size() > num_kept) drop_worse();
  std::sort(best.begin(), best.end(), is_better);
}

}  // namespace tandem
