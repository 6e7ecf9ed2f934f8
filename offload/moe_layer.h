// Feed-forward of one layer, equations 11 to 15: a dense MLP, or router, routed experts on the CPU
// and shared experts.
#pragma once

#include <cstdint>

#include "cpu_experts/moe_experts.h"
#include "gpu/ops.h"
#include "offload/weights.h"
#include "offload/workspace.h"

namespace tandem::offload {

// residual += W_down(silu(W_gate x) * W_up x), x = rms_norm(residual)
void run_dense_mlp(gpu::Ops& ops,
                   const LayerWeights& weights,
                   float rms_norm_eps,
                   int64_t num_tokens,
                   Workspace& workspace);

// residual += sum_e g_e MLP_e(x) + MLP_shared(x). Routed sum first: the order is part of the bits.
void run_moe(gpu::Ops& ops,
             cpu_experts::MoeExperts& experts,
             const gpu::RouterParams& router,
             const LayerWeights& weights,
             int32_t moe_layer_idx,
             float rms_norm_eps,
             int64_t num_tokens,
             Workspace& workspace);

}  // namespace tandem::offload
