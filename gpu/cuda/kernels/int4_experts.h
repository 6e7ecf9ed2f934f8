// Routed experts that lie on the card, straight from the packed INT4
// (runtime/model/expert_layout.h), equations 11 and 15. Experts that do not are left to others.
#pragma once

#include <cstddef>

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

// Pairs [pair_begin, pair_begin + num_pairs) of the sorted ones: tokens of one expert.
struct ExpertTile {
  int32_t expert_idx = 0;
  int32_t pair_begin = 0;
  int32_t num_pairs = 0;
};

// How many tokens of an expert are multiplied at once. The paths differ in the last bits.
enum class ExpertPath {
  kFew,   // tiles of 8 tokens, in_features split between the warps of a CTA: for a decode
  kMany,  // tiles of 64 tokens, whose activations the warps share: for a prefill
};

// residual[t, :] += sum_j weight[t, j] * MLP_{id[t, j]}(hidden[t, :]) over the j whose expert is
// here.
// A pair is (t, j), numbered t * num_experts_per_tok + j. Products of activations with the codes
// are summed in FP32 by groups of 32 and multiplied by the group's scale; the activation between
// the products and an expert's output are rounded to BF16, as the reference does; the sum over
// experts is FP32, in the order of j, and added to the residual last.
struct Int4ExpertsParams {
  MatrixView<const bf16> hidden;         // [num_tokens, hidden_size], rows at multiples of 16 bytes
  MatrixView<const int32_t> expert_ids;  // [num_tokens, num_experts_per_tok]
  MatrixView<const float> expert_weights;  // as expert_ids
  // [num_tokens] of StepInputs: below 0 the row has no token and is left out; its ids may be
  // anything. Null: every row has one.
  const int32_t* kv_slots = nullptr;
  // Where each expert lies: row blocks of gate and up in turn, then down. Null: not here.
  const std::byte* const* experts =
      nullptr;                        // [n_routed_experts], device memory of device pointers
  int32_t n_routed_experts = 0;       // at most 1024
  int32_t moe_intermediate_size = 0;  // multiple of 32, as hidden_size
  // Workspace, for num_pairs = num_tokens * num_experts_per_tok.
  int32_t* sorted_pairs = nullptr;  // [num_pairs]
  ExpertTile* tiles = nullptr;      // [max_expert_tiles(...)]
  int32_t* num_tiles = nullptr;     // [1]
  bf16* activated = nullptr;        // [num_pairs, moe_intermediate_size] in sorted order
  bf16* expert_out = nullptr;       // [num_pairs, hidden_size] by pair
  MatrixView<float> residual;       // [num_tokens, hidden_size]
  // Set by the launch.
  int32_t tokens_a_tile = 0;
};

constexpr int32_t tokens_a_tile(ExpertPath path) { return path == ExpertPath::kFew ? 8 : 64; }
// Every expert can have one tile that is not full.
constexpr int64_t max_expert_tiles(int64_t num_pairs, int32_t n_routed_experts, ExpertPath path) {
  const int64_t bound = num_pairs / tokens_a_tile(path) + n_routed_experts;
  return bound < num_pairs ? bound : num_pairs;
}

// Four kernels: sort the pairs by expert, gate and up, down, the sum. A row depends on its
// own token, the path and which experts are here alone, to the bit.
void launch_int4_experts(const Int4ExpertsParams& params, ExpertPath path, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
