// Feed-forward of one layer, equations 11 to 15: a dense MLP, or router, routed experts (on the CPU
// or on the device) and shared experts.
#pragma once

#include <cstdint>

#include "cpu_experts/moe_experts.h"
#include "gpu/ops.h"
#include "offload/weights.h"
#include "offload/workspace.h"

namespace tandem::offload {

// The rows of a step's matrices: the tokens', and what the device puts behind them.
struct StepRows {
  int64_t num_tokens = 0;
  int64_t num_rows = 0;
};

// residual += W_down(silu(W_gate x) * W_up x), x = rms_norm(residual)
void run_dense_mlp(gpu::Ops& ops,
                   const LayerWeights& weights,
                   float rms_norm_eps,
                   int64_t num_rows,
                   Workspace& workspace);

// The same for a MoE layer whose routed experts lie on the device as well: the host has no part.
// residual += sum_e g_e MLP_e(x) + MLP_shared(x), routed sum first.
void run_moe_on_device(gpu::Ops& ops,
                       const gpu::RouterParams& router,
                       const LayerWeights& weights,
                       float rms_norm_eps,
                       int64_t num_rows,
                       Workspace& workspace);

// The device's share of another MoE layer, in two parts; the routed experts compute beside the
// second. x = rms_norm(residual):

// x, expert ids and weights to the host (12 to 14); what is there after synchronize().
void route_tokens(gpu::Ops& ops,
                  const gpu::RouterParams& router,
                  const LayerWeights& weights,
                  float rms_norm_eps,
                  int64_t num_rows,
                  Workspace& workspace);
// shared_sum = MLP_shared(x), where the model has shared experts. It and host_routed_sum, which
// need not be there yet, are pending then.
void run_shared_experts(gpu::Ops& ops,
                        const LayerWeights& weights,
                        int64_t num_rows,
                        Workspace& workspace);

// residual += sum_e g_e MLP_e(x) + MLP_shared(x), routed sum first; pending when this returns.
void run_moe(gpu::Ops& ops,
             cpu_experts::MoeExperts& experts,
             const gpu::RouterParams& router,
             const LayerWeights& weights,
             int32_t moe_layer_idx,
             float rms_norm_eps,
             const StepRows& rows,
             Workspace& workspace);

}  // namespace tandem::offload
