#include "offload/attention_layer.h"

#include "offload/residual.h"

namespace tandem::offload {

void run_attention(gpu::Ops& ops,
                   const AttentionContext& context,
                   const AttentionWeights& weights,
                   const gpu::KvCacheLayer& cache,
                   int64_t num_rows,
                   Workspace& workspace) {
  const MatrixView residual = workspace.residual.first_rows(num_rows);
  const MatrixView normed = workspace.normed.first_rows(num_rows);
  const MatrixView qkv_a = workspace.qkv_a.first_rows(num_rows);
  const MatrixView q = workspace.q.first_rows(num_rows);
  const MatrixView attention_out = workspace.attention_out.first_rows(num_rows);

  norm_residual(ops, weights.input_layernorm.view(), context.rms_norm_eps, num_rows, workspace);
  ops.linear(normed, *weights.qkv_a, qkv_a);
  if (context.q_lora_rank > 0) {
    const MatrixView q_latent = workspace.q_latent.first_rows(num_rows);
    ops.rms_norm(qkv_a.columns(0, context.q_lora_rank), weights.q_a_layernorm.view(),
                 context.lora_rms_norm_eps, q_latent);
    ops.linear(q_latent, *weights.q_b, q);
  } else {
    ops.linear(normed, *weights.q_b, q);
  }

  const gpu::Ops::RopeKvParams rope{.kv_a_layernorm = weights.kv_a_layernorm.view(),
                                    .eps = context.lora_rms_norm_eps,
                                    .frequencies = context.frequencies,
                                    .magnitude = context.magnitude};
  ops.rope_and_append_kv(context.shape, rope, q,
                         qkv_a.columns(context.q_lora_rank, context.shape.kv_dim()), cache);
  ops.mla_attention(context.shape, q, *weights.kv_b, cache, attention_out);
  ops.linear_add(attention_out, *weights.o_proj, residual);
}

}  // namespace tandem::offload
