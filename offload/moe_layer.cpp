#include "offload/moe_layer.h"

#include "offload/host_copy.h"

namespace tandem::offload {
namespace {

// The MLP in two halves, so that the device can begin while the CPU sums the routed experts; for
// the dense MLP and the shared experts alike.

// activated = silu(W_gate normed) * (W_up normed)
void activate_mlp(gpu::Ops& ops,
                  const MlpWeights& weights,
                  int64_t num_rows,
                  Workspace& workspace) {
  const MatrixView gate_up =
      workspace.gate_up.first_rows(num_rows).columns(0, weights.gate_up->out_features);
  ops.linear(workspace.normed.first_rows(num_rows), *weights.gate_up, gate_up);
  ops.swiglu(gate_up,
             workspace.activated.first_rows(num_rows).columns(0, weights.down->in_features));
}

// residual += W_down activated
void add_mlp(gpu::Ops& ops, const MlpWeights& weights, int64_t num_rows, Workspace& workspace) {
  ops.linear_add(workspace.activated.first_rows(num_rows).columns(0, weights.down->in_features),
                 *weights.down, workspace.residual.first_rows(num_rows));
}

}  // namespace

void run_dense_mlp(gpu::Ops& ops,
                   const LayerWeights& weights,
                   float rms_norm_eps,
                   int64_t num_rows,
                   Workspace& workspace) {
  ops.rms_norm(workspace.residual.first_rows(num_rows), weights.post_attention_layernorm.view(),
               rms_norm_eps, workspace.normed.first_rows(num_rows));
  activate_mlp(ops, weights.mlp, num_rows, workspace);
  add_mlp(ops, weights.mlp, num_rows, workspace);
}

void run_moe(gpu::Ops& ops,
             cpu_experts::MoeExperts& experts,
             const gpu::RouterParams& router,
             const LayerWeights& weights,
             int32_t moe_layer_idx,
             float rms_norm_eps,
             const StepRows& rows,
             Workspace& workspace) {
  const MatrixView residual = workspace.residual.first_rows(rows.num_rows);
  const MatrixView normed = workspace.normed.first_rows(rows.num_rows);
  const MatrixView expert_ids = workspace.expert_ids.first_rows(rows.num_rows);
  const MatrixView expert_weights = workspace.expert_weights.first_rows(rows.num_rows);
  const MatrixView host_normed = workspace.host_normed.first_rows(rows.num_rows);
  const MatrixView host_expert_ids = workspace.host_expert_ids.first_rows(rows.num_rows);
  const MatrixView host_expert_weights = workspace.host_expert_weights.first_rows(rows.num_rows);
  const MatrixView host_routed_sum = workspace.host_routed_sum.first_rows(rows.num_rows);
  const bool has_shared_experts = weights.mlp.gate_up != nullptr;

  ops.rms_norm(residual, weights.post_attention_layernorm.view(), rms_norm_eps, normed);
  ops.router_topk(normed, *weights.gate, weights.e_score_correction_bias.view(), router, expert_ids,
                  expert_weights);
  copy_to_host<bf16>(ops, normed, host_normed);
  copy_to_host<int32_t>(ops, expert_ids, host_expert_ids);
  copy_to_host<float>(ops, expert_weights, host_expert_weights);
  ops.synchronize();
  if (has_shared_experts) activate_mlp(ops, weights.mlp, rows.num_rows, workspace);
  ops.submit();
  experts.forward(moe_layer_idx,
                  {.hidden = host_normed.first_rows(rows.num_tokens),
                   .expert_ids = host_expert_ids.first_rows(rows.num_tokens),
                   .expert_weights = host_expert_weights.first_rows(rows.num_tokens)},
                  host_routed_sum.first_rows(rows.num_tokens));
  ops.add_from_host(host_routed_sum, residual);
  if (has_shared_experts) add_mlp(ops, weights.mlp, rows.num_rows, workspace);
}

}  // namespace tandem::offload
