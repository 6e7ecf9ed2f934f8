// Random experts in the checkpoint's INT4 form and the naive FP32 judge of a MoE layer.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"
#include "runtime/model/expert_tensors.h"
#include "runtime/topology/cpu_isa.h"

namespace tandem::tests {

// Wild scales are of both signs, some zero, tiny or large; alike ones are those of a trained
// matrix, within a factor of two.
enum class Scales { kWild, kAlike };

// An owned Int4Matrix. Every one of the 16 codes occurs.
struct OwnedInt4 {
  std::vector<uint8_t> packed;
  std::vector<bf16> scale;
  int64_t out_features = 0, in_features = 0;

  [[nodiscard]] Int4Matrix view() const;
  [[nodiscard]] float weight(int64_t row, int64_t col) const;
};
OwnedInt4 random_int4(int64_t out_features,
                      int64_t in_features,
                      std::mt19937& random,
                      Scales scales = Scales::kWild);

struct OwnedExpert {
  OwnedInt4 gate_proj, up_proj, down_proj;
  [[nodiscard]] ExpertTensors view() const {
    return {
        .gate_proj = gate_proj.view(), .up_proj = up_proj.view(), .down_proj = down_proj.view()};
  }
};
OwnedExpert random_expert(int64_t hidden_size,
                          int64_t moe_intermediate_size,
                          std::mt19937& random,
                          Scales scales = Scales::kWild);

// One step's routing: distinct experts for every token. One value of hidden in a thousand is
// `outlier` times as large.
struct Routing {
  std::vector<bf16> hidden;
  std::vector<int32_t> expert_ids;
  std::vector<float> expert_weights;
};
Routing random_routing(int64_t num_tokens,
                       int64_t hidden_size,
                       int32_t n_routed_experts,
                       int32_t num_experts_per_tok,
                       std::mt19937& random,
                       float outlier = 1e4f);

// MLP_e(x) in double from the equation, with what errors are relative to: of roundings the sum of
// |terms| of every output, of activations in integers the same sum with the largest magnitude of
// its group of 32 in place of every activation.
struct NaiveRow {
  std::vector<double> value;
  std::vector<double> magnitude;
  std::vector<double> group_magnitude;
};
NaiveRow naive_expert(const OwnedExpert& expert, const bf16* x);

// Whether a byte of the products of bytes holds two codes (cpu_experts/simd/rows.h): an activation
// is then off by its own rounding and a sixteenth of another's.
inline bool mixes_nibbles(CpuIsa isa) { return isa != CpuIsa::kAvx2 && isa != CpuIsa::kAvx512; }

// The largest magnitude of each value's group of 32.
std::vector<double> group_maxima(const std::vector<double>& values);

}  // namespace tandem::tests
