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

OwnedInt4 random_int4(int64_t out_features, int64_t in_features, std::mt19937& random) {
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
    float scale = unit * normal(random);
    if (idx % 37 == 5) scale = 0.0f;
    if (idx % 41 == 7) scale = 1e-30f;
    if (idx % 43 == 9) scale *= 16.0f;
    matrix.scale.push_back(bf16(scale));
  }
  return matrix;
}

OwnedExpert random_expert(int64_t hidden_size,
                          int64_t moe_intermediate_size,
                          std::mt19937& random) {
  OwnedExpert expert;
  expert.gate_proj = random_int4(moe_intermediate_size, hidden_size, random);
  expert.up_proj = random_int4(moe_intermediate_size, hidden_size, random);
  expert.down_proj = random_int4(hidden_size, moe_intermediate_size, random);
  return expert;
}

Routing random_routing(int64_t num_tokens,
                       int64_t hidden_size,
                       int32_t n_routed_experts,
                       int32_t num_experts_per_tok,
                       std::mt19937& random) {
  Routing routing;
  std::normal_distribution<float> normal;
  std::uniform_real_distribution<float> share(0.0f, 1.0f);
  std::vector<int32_t> experts(static_cast<size_t>(n_routed_experts));
  std::iota(experts.begin(), experts.end(), 0);
  for (int64_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    for (int64_t col = 0; col < hidden_size; ++col) {
      const float outlier = (token_idx * hidden_size + col) % 997 == 3 ? 1e3f : 1.0f;
      routing.hidden.push_back(bf16(outlier * normal(random)));
    }
    std::shuffle(experts.begin(), experts.end(), random);
    for (int32_t slot = 0; slot < num_experts_per_tok; ++slot) {
      routing.expert_ids.push_back(experts[static_cast<size_t>(slot)]);
      routing.expert_weights.push_back(share(random));
    }
  }
  return routing;
}

NaiveRow naive_expert(const OwnedExpert& expert, const bf16* x) {
  const int64_t hidden_size = expert.gate_proj.in_features;
  const int64_t intermediate = expert.gate_proj.out_features;
  std::vector<double> activated(static_cast<size_t>(intermediate));
  std::vector<double> activated_magnitude(static_cast<size_t>(intermediate));
  for (int64_t row = 0; row < intermediate; ++row) {
    double gate = 0.0, up = 0.0, gate_magnitude = 0.0, up_magnitude = 0.0;
    for (int64_t col = 0; col < hidden_size; ++col) {
      const double value = x[col].to_float();
      const double gate_term = value * expert.gate_proj.weight(row, col);
      const double up_term = value * expert.up_proj.weight(row, col);
      gate += gate_term;
      up += up_term;
      gate_magnitude += std::fabs(gate_term);
      up_magnitude += std::fabs(up_term);
    }
    const double sigmoid = 1.0 / (1.0 + std::exp(-gate));
    activated[static_cast<size_t>(row)] = gate * sigmoid * up;
    // First order: |d silu| <= 1.1, so an error of gate counts with |up|, one of up with |silu|.
    activated_magnitude[static_cast<size_t>(row)] = 1.1 * gate_magnitude * std::fabs(up) +
                                                    std::fabs(gate * sigmoid) * up_magnitude +
                                                    std::fabs(activated[static_cast<size_t>(row)]);
  }
  NaiveRow result;
  for (int64_t row = 0; row < hidden_size; ++row) {
    double value = 0.0, magnitude = 0.0;
    for (int64_t col = 0; col < intermediate; ++col) {
      const double weight = expert.down_proj.weight(row, col);
      value += weight * activated[static_cast<size_t>(col)];
      magnitude += std::fabs(weight) * activated_magnitude[static_cast<size_t>(col)];
    }
    result.value.push_back(value);
    result.magnitude.push_back(magnitude);
  }
  return result;
}

}  // namespace tandem::tests
