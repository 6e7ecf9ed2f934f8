// The router's choice from its logits (equations 12 to 14), all in FP32; and what else the CPU's
// experts need of a token, in the same launch.
#pragma once

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

// A choice or a group a lane of a warp.
inline constexpr int32_t kMaxRouterChoices = simt::kWarpSize;

// score = sigmoid(logit); choice = score + bias. With n_group > 1 only the topk_group groups whose
// two best choices have the largest sum stay. The num_experts_per_tok largest choices are taken,
// the lower index on ties; ids ascend. weight = score, divided by the sum of the chosen scores +
// 1e-20 if norm_topk_prob, times routed_scaling_factor. NaN is worse than everything; the ids are
// always different experts that exist.
struct RouterTopkParams {
  MatrixView<const float> logits;        // [num_tokens, n_routed_experts]
  const float* e_score_correction_bias;  // [n_routed_experts], or null: zeros
  MatrixView<int32_t> expert_ids;    // [num_tokens, num_experts_per_tok], at most kMaxRouterChoices
  MatrixView<float> expert_weights;  // as expert_ids
  int32_t n_group;                   // divides n_routed_experts; at most kMaxRouterChoices
  int32_t topk_group;
  bool norm_topk_prob;
  float routed_scaling_factor;
  // hidden_copy = hidden, where that has rows; all rows start at multiples of 16 bytes. The copy,
  // ids and weights may lie in memory of the host.
  MatrixView<const bf16> hidden = {};  // [num_tokens, hidden_size], hidden_size a multiple of 8
  MatrixView<bf16> hidden_copy = {};
};
void launch_router_topk(const RouterTopkParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
