#include "offload/moe_layer.h"

namespace tandem::offload {
namespace {

// residual += MLP(normed), for the dense MLP and the shared experts alike.
void add_mlp(gpu::Ops& ops, const MlpWeights& weights, int64_t num_tokens, Workspace& workspace) {
  const MatrixView gate_up =
      workspace.gate_up.first_rows(num_tokens).columns(0, weights.gate_up->out_features);
  const MatrixView activated =
      workspace.activated.first_rows(num_tokens).columns(0, weights.down->in_features);
  ops.linear(workspace.normed.first_rows(num_tokens), *weights.gate_up, gate_up);
  ops.swiglu(gate_up, activated);
  ops.linear_add(activated, *weights.down, workspace.residual.first_rows(num_tokens));
}

}  // namespace

void run_dense_mlp(gpu::Ops& ops,
                   const LayerWeights& weights,
                   float rms_norm_eps,
                   int64_t num_tokens,
                   Workspace& workspace) {
  ops.rms_norm(workspace.residual.first_rows(num_tokens), weights.post_attention_layernorm.view(),
               rms_norm_eps, workspace.normed.first_rows(num_tokens));
  add_mlp(ops, weights.mlp, num_tokens, workspace);
}

void run_moe(gpu::Ops& ops,
             cpu_experts::MoeExperts& experts,
             const gpu::RouterParams& router,
             const LayerWeights& weights,
             int32_t moe_layer_idx,
             float rms_norm_eps,
             int64_t num_tokens,
             Workspace& workspace) {
  const MatrixView residual = workspace.residual.first_rows(num_tokens);
  const MatrixView normed = workspace.normed.first_rows(num_tokens);
  const MatrixView expert_ids = workspace.expert_ids.first_rows(num_tokens);
  const MatrixView expert_weights = workspace.expert_weights.first_rows(num_tokens);
  const MatrixView routed_sum = workspace.routed_sum.first_rows(num_tokens);

  ops.rms_norm(residual, weights.post_attention_layernorm.view(), rms_norm_eps, normed);
  ops.router_topk(normed, *weights.gate, weights.e_score_correction_bias.view(), router, expert_ids,
                  expert_weights);
  // The host device's memory is host memory: the experts read the activations where they lie.
  ops.synchronize();
  experts.forward(moe_layer_idx,
                  {.hidden = normed, .expert_ids = expert_ids, .expert_weights = expert_weights},
                  routed_sum);
  ops.add(routed_sum, residual);
  if (weights.mlp.gate_up != nullptr) add_mlp(ops, weights.mlp, num_tokens, workspace);
}

}  // namespace tandem::offload
