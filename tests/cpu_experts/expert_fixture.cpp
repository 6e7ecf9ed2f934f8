#include "tests/cpu_experts/expert_fixture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace tandem::tests {

Int4Matrix OwnedInt4::view() const {
  return {.packed = {packed.data(), out_features, in_features / 2},
          .scale = {scale.data(), out_features, in_features / kInt4GroupSize}};
}

float OwnedInt4::weight(int64_t row, int64_t col) const {
  const uint8_t byte = packed[static_cast<size_t>((row * in_features + col) / 2)];
  const int code = col % 2 == 0 ? byte & 15 : byte >> 4;
  return static_cast<float>(code - 8) *
         scale[static_cast<size_t>((row * in_features + col) / kInt4GroupSize)].to_float();
}

OwnedInt4 random_int4(int64_t out_features,
                      int64_t in_features,
                      std::mt19937& random,
                      Scales scales) {
  OwnedInt4 matrix{
      .packed = {}, .scale = {}, .out_features = out_features, .in_features = in_features};
  std::uniform_int_distribution<int> byte(0, 255);
  std::normal_distribution<float> normal;
  // Codes have a standard deviation of 4.6: this keeps a row's sum near 1.
  const float unit = 1.0f / (4.6f * std::sqrt(static_cast<float>(in_features)));
  for (int64_t idx = 0; idx < out_features * in_features / 2; ++idx) {
    matrix.packed.push_back(static_cast<uint8_t>(byte(random)));
  }
  for (int64_t idx = 0; idx < out_features * in_features / kInt4GroupSize; ++idx) {
    const float value = normal(random);
    if (scales == Scales::kAlike) {
      matrix.scale.push_back(bf16(unit * (1.0f + 0.3f * std::tanh(value))));
      continue;
    }
    float scale = unit * value;
    if (idx % 37 == 5) scale = 0.0f;
    if (idx % 41 == 7) scale = 1e-30f;
    if (idx % 43 == 9) scale *= 16.0f;
    matrix.scale.push_back(bf16(scale));
  }
  return matrix;
}

OwnedExpert random_expert(int64_t hidden_size,
                          int64_t moe_intermediate_size,
                          std::mt19937& random,
                          Scales scales) {
  OwnedExpert expert;
  expert.gate_proj = random_int4(moe_intermediate_size, hidden_size, random, scales);
  expert.up_proj = random_int4(moe_intermediate_size, hidden_size, random, scales);
  expert.down_proj = random_int4(hidden_size, moe_intermediate_size, random, scales);
  return expert;
}

Routing random_routing(int64_t num_tokens,
                       int64_t hidden_size,
                       int32_t n_routed_experts,
                       int32_t num_experts_per_tok,
                       std::mt19937& random,
                       float outlier) {
  Routing routing;
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> share(0.0f, 1.0f);
  std::vector<int32_t> experts(static_cast<size_t>(n_routed_experts));
  std::iota(experts.begin(), experts.end(), 0);
  for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    for (int64_t col = 0; col < hidden_size; ++col) {
      const bool is_outlier = (token_idx * hidden_size + col) % 997 == 3;
      routing.hidden.push_back(bf16((is_outlier ? outlier : 1.0f) * normal(random)));
    }
    std::shuffle(experts.begin(), experts.end(), random);
    for (int32_t slot = 0; slot < num_experts_per_tok; ++slot) {
      routing.expert_ids.push_back(experts[static_cast<size_t>(slot)]);
      routing.expert_weights.push_back(share(random));
    }
  }
  return routing;
}

std::vector<double> group_maxima(const std::vector<double>& values) {
  std::vector<double> maxima(values.size());
  for (size_t begin = 0; begin < values.size(); begin += kInt4GroupSize) {
    const size_t end = std::min(values.size(), begin + kInt4GroupSize);
    double largest = 0.0;
    for (size_t idx = begin; idx < end; ++idx) largest = std::max(largest, std::fabs(values[idx]));
    std::fill(maxima.begin() + begin, maxima.begin() + end, largest);
  }
  return maxima;
}

namespace {

// W x with the sums of |w| times `x`, |x| and the group's largest |x|.
struct NaiveDot {
  double value = 0.0, magnitude = 0.0, group_magnitude = 0.0;
};
NaiveDot naive_dot(const OwnedInt4& weights,
                   int64_t row,
                   const std::vector<double>& x,
                   const std::vector<double>& maxima) {
  NaiveDot dot;
  for (int64_t col = 0; col < weights.in_features; ++col) {
    const double weight = weights.weight(row, col);
    dot.value += weight * x[col];
    dot.magnitude += std::fabs(weight * x[col]);
    dot.group_magnitude += std::fabs(weight) * maxima[col];
  }
  return dot;
}

}  // namespace

NaiveRow naive_expert(const OwnedExpert& expert, const bf16* x) {
  const int64_t hidden_size = expert.gate_proj.in_features;
  const int64_t intermediate = expert.gate_proj.out_features;
  std::vector<double> hidden;
  for (int64_t col = 0; col < hidden_size; ++col) hidden.push_back(x[col].to_float());
  const std::vector<double> hidden_maxima = group_maxima(hidden);
  std::vector<double> activated, magnitude, group_magnitude;
  for (int64_t row = 0; row < intermediate; ++row) {
    const NaiveDot gate = naive_dot(expert.gate_proj, row, hidden, hidden_maxima);
    const NaiveDot up = naive_dot(expert.up_proj, row, hidden, hidden_maxima);
    const double silu = gate.value / (1.0 + std::exp(-gate.value));
    activated.push_back(silu * up.value);
    // First order: |d silu| <= 1.1, so an error of gate counts with |up|, one of up with |silu|.
    const double gate_slope = 1.1 * std::fabs(up.value);
    const double up_slope = std::fabs(silu);
    magnitude.push_back(gate_slope * gate.magnitude + up_slope * up.magnitude +
                        std::fabs(activated.back()));
    group_magnitude.push_back(gate_slope * gate.group_magnitude + up_slope * up.group_magnitude);
  }
  const std::vector<double> maxima = group_maxima(activated);
  NaiveRow result;
  for (int64_t row = 0; row < hidden_size; ++row) {
    double value = 0.0, row_magnitude = 0.0, row_group_magnitude = 0.0;
    for (int64_t col = 0; col < intermediate; ++col) {
      const double weight = expert.down_proj.weight(row, col);
      value += weight * activated[col];
      row_magnitude += std::fabs(weight) * magnitude[col];
      row_group_magnitude += std::fabs(weight) * (group_magnitude[col] + maxima[col]);
    }
    result.value.push_back(value);
    result.magnitude.push_back(row_magnitude);
    result.group_magnitude.push_back(row_group_magnitude);
  }
  return result;
}

}  // namespace tandem::tests
