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
  ops.linear_swiglu(workspace.normed.first_rows(num_rows), *weights.gate_up, gate_up,
                    workspace.activated.first_rows(num_rows).columns(0, weights.down->in_features));
}

// residual += W_down activated
void add_mlp(gpu::Ops& ops, const MlpWeights& weights, int64_t num_rows, Workspace& workspace) {
  ops.linear_add(workspace.activated.first_rows(num_rows).columns(0, weights.down->in_features),
                 *weights.down, workspace.residual.first_rows(num_rows));
}

// normed, expert ids and weights (12 to 14).
void choose_experts(gpu::Ops& ops,
                    const gpu::RouterParams& router,
                    const LayerWeights& weights,
                    float rms_norm_eps,
                    int64_t num_rows,
                    Workspace& workspace) {
  const MatrixView normed = workspace.normed.first_rows(num_rows);
  ops.rms_norm(workspace.residual.first_rows(num_rows), weights.post_attention_layernorm.view(),
               rms_norm_eps, normed);
  ops.router_topk(normed, *weights.gate, weights.e_score_correction_bias.view(), router,
                  workspace.expert_ids.first_rows(num_rows),
                  workspace.expert_weights.first_rows(num_rows));
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

void run_moe_on_device(gpu::Ops& ops,
                       const gpu::RouterParams& router,
                       const LayerWeights& weights,
                       float rms_norm_eps,
                       int64_t num_rows,
                       Workspace& workspace) {
  choose_experts(ops, router, weights, rms_norm_eps, num_rows, workspace);
  ops.add_routed_experts(workspace.normed.first_rows(num_rows), *weights.experts,
                         workspace.expert_ids.first_rows(num_rows),
                         workspace.expert_weights.first_rows(num_rows),
                         workspace.residual.first_rows(num_rows));
  if (weights.mlp.gate_up == nullptr) return;
  activate_mlp(ops, weights.mlp, num_rows, workspace);
  add_mlp(ops, weights.mlp, num_rows, workspace);
}

void route_tokens(gpu::Ops& ops,
                  const gpu::RouterParams& router,
                  const LayerWeights& weights,
                  float rms_norm_eps,
                  int64_t num_rows,
                  Workspace& workspace) {
  choose_experts(ops, router, weights, rms_norm_eps, num_rows, workspace);
  copy_to_host<bf16>(ops, workspace.normed.first_rows(num_rows),
                     workspace.host_normed.first_rows(num_rows));
  copy_to_host<int32_t>(ops, workspace.expert_ids.first_rows(num_rows),
                        workspace.host_expert_ids.first_rows(num_rows));
  copy_to_host<float>(ops, workspace.expert_weights.first_rows(num_rows),
                      workspace.host_expert_weights.first_rows(num_rows));
}

void activate_shared_experts(gpu::Ops& ops,
                             const LayerWeights& weights,
                             int64_t num_rows,
                             Workspace& workspace) {
  if (weights.mlp.gate_up != nullptr) activate_mlp(ops, weights.mlp, num_rows, workspace);
}

void add_experts(gpu::Ops& ops,
                 const LayerWeights& weights,
                 int64_t num_rows,
                 Workspace& workspace) {
  ops.add_from_host(workspace.host_routed_sum.first_rows(num_rows),
                    workspace.residual.first_rows(num_rows));
  if (weights.mlp.gate_up != nullptr) add_mlp(ops, weights.mlp, num_rows, workspace);
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
  activate_shared_experts(ops, weights, rows.num_rows, workspace);
  ops.submit();
  experts.forward(moe_layer_idx,
                  {.hidden = workspace.host_normed.first_rows(rows.num_tokens),
                   .expert_ids = workspace.host_expert_ids.first_rows(rows.num_tokens),
                   .expert_weights = workspace.host_expert_weights.first_rows(rows.num_tokens)},
                  workspace.host_routed_sum.first_rows(rows.num_tokens));
  add_experts(ops, weights, rows.num_rows, workspace);
}

}  // namespace tandem::offload
