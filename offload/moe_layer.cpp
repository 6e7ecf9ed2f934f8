#include "offload/moe_layer.h"

#include "offload/residual.h"

namespace tandem::offload {
namespace {

// The dense MLP and the shared experts alike, in two halves.

// activated = silu(W_gate normed) * (W_up normed)
MatrixView<const bf16> activate_mlp(gpu::Ops& ops,
                                    const MlpWeights& weights,
                                    int64_t num_rows,
                                    Workspace& workspace) {
  const MatrixView gate_up =
      workspace.gate_up.first_rows(num_rows).columns(0, weights.gate_up->out_features);
  const MatrixView activated =
      workspace.activated.first_rows(num_rows).columns(0, weights.down->in_features);
  ops.linear_swiglu(workspace.normed.first_rows(num_rows), *weights.gate_up, gate_up, activated);
  return activated;
}

// residual += W_down activated
void add_mlp(gpu::Ops& ops, const MlpWeights& weights, int64_t num_rows, Workspace& workspace) {
  const MatrixView activated = activate_mlp(ops, weights, num_rows, workspace);
  ops.linear_add(activated, *weights.down, workspace.residual.first_rows(num_rows));
}

}  // namespace

void run_dense_mlp(gpu::Ops& ops,
                   const LayerWeights& weights,
                   float rms_norm_eps,
                   int64_t num_rows,
                   Workspace& workspace) {
  norm_residual(ops, weights.post_attention_layernorm.view(), rms_norm_eps, num_rows, workspace);
  add_mlp(ops, weights.mlp, num_rows, workspace);
}

void run_moe_on_device(gpu::Ops& ops,
                       const gpu::RouterParams& router,
                       const LayerWeights& weights,
                       float rms_norm_eps,
                       int64_t num_rows,
                       Workspace& workspace) {
  norm_residual(ops, weights.post_attention_layernorm.view(), rms_norm_eps, num_rows, workspace);
  const MatrixView normed = workspace.normed.first_rows(num_rows);
  const MatrixView expert_ids = workspace.expert_ids.first_rows(num_rows);
  const MatrixView expert_weights = workspace.expert_weights.first_rows(num_rows);
  ops.router_topk(normed, *weights.gate, weights.e_score_correction_bias.view(), router, {},
                  expert_ids, expert_weights);
  ops.add_routed_experts(normed, *weights.experts, expert_ids, expert_weights,
                         workspace.residual.first_rows(num_rows));
  if (weights.mlp.gate_up != nullptr) add_mlp(ops, weights.mlp, num_rows, workspace);
}

void route_tokens(gpu::Ops& ops,
                  const gpu::RouterParams& router,
                  const LayerWeights& weights,
                  float rms_norm_eps,
                  int64_t num_rows,
                  Workspace& workspace) {
  norm_residual(ops, weights.post_attention_layernorm.view(), rms_norm_eps, num_rows, workspace);
  ops.router_topk(workspace.normed.first_rows(num_rows), *weights.gate,
                  weights.e_score_correction_bias.view(), router,
                  workspace.host_normed.first_rows(num_rows),
                  workspace.host_expert_ids.first_rows(num_rows),
                  workspace.host_expert_weights.first_rows(num_rows));
}

void run_shared_experts(gpu::Ops& ops,
                        const LayerWeights& weights,
                        int64_t num_rows,
                        Workspace& workspace) {
  workspace.pending.push(workspace.host_routed_sum.first_rows(num_rows));
  if (weights.mlp.gate_up == nullptr) return;
  const MatrixView activated = activate_mlp(ops, weights.mlp, num_rows, workspace);
  const MatrixView sum = workspace.shared_sum.first_rows(num_rows);
  ops.linear(activated, *weights.mlp.down, sum);
  workspace.pending.push(sum);
}

void run_moe(gpu::Ops& ops,
             cpu_experts::MoeExperts& experts,
             const gpu::RouterParams& router,
             const LayerWeights& weights,
             int32_t moe_layer_idx,
             float rms_norm_eps,
             const StepRows& rows,
             Workspace& workspace) {
  route_tokens(ops, router, weights, rms_norm_eps, rows.num_rows, workspace);
  ops.synchronize();
  // The device goes on while the experts compute.
  run_shared_experts(ops, weights, rows.num_rows, workspace);
  ops.submit();
  experts.forward(moe_layer_idx,
                  {.hidden = workspace.host_normed.first_rows(rows.num_tokens),
                   .expert_ids = workspace.host_expert_ids.first_rows(rows.num_tokens),
                   .expert_weights = workspace.host_expert_weights.first_rows(rows.num_tokens)},
                  workspace.host_routed_sum.first_rows(rows.num_tokens));
}

}  // namespace tandem::offload
