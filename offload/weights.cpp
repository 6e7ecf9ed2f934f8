#include "offload/weights.h"

#include <array>

namespace tandem::offload {
namespace {

MlpWeights upload_mlp(gpu::Ops& ops, const MlpTensors& tensors) {
  const std::array gate_up{tensors.gate_proj, tensors.up_proj};
  return {.gate_up = ops.load_linear(gate_up), .down = ops.load_linear(tensors.down_proj)};
}

AttentionWeights upload_attention(gpu::Ops& ops,
                                  const ModelConfig& config,
                                  const LayerTensors& tensors) {
  AttentionWeights weights;
  weights.input_layernorm = {ops, tensors.input_layernorm};
  if (config.q_lora_rank > 0) {
    const std::array qkv_a{tensors.q_a_proj, tensors.kv_a_proj_with_mqa};
    weights.qkv_a = ops.load_linear(qkv_a);
    weights.q_a_layernorm = {ops, tensors.q_a_layernorm};
    weights.q_b = ops.load_linear(tensors.q_b_proj);
  } else {
    weights.qkv_a = ops.load_linear(tensors.kv_a_proj_with_mqa);
    weights.q_b = ops.load_linear(tensors.q_proj);
  }
  weights.kv_a_layernorm = {ops, tensors.kv_a_layernorm};
  weights.kv_b = ops.load_kv_b(tensors.kv_b_proj, mla_shape(config));
  weights.o_proj = ops.load_linear(tensors.o_proj);
  return weights;
}

}  // namespace

gpu::MlaShape mla_shape(const ModelConfig& config) {
  return {.num_attention_heads = config.num_attention_heads,
          .qk_nope_head_dim = config.qk_nope_head_dim,
          .qk_rope_head_dim = config.qk_rope_head_dim,
          .v_head_dim = config.v_head_dim,
          .kv_lora_rank = config.kv_lora_rank,
          .softmax_scale = softmax_scale(config)};
}

gpu::RouterParams router_params(const ModelConfig& config) {
  return {.num_experts_per_tok = config.num_experts_per_tok,
          .n_group = config.n_group,
          .topk_group = config.topk_group,
          .norm_topk_prob = config.norm_topk_prob,
          .routed_scaling_factor = config.routed_scaling_factor};
}

gpu::ExpertsShape experts_shape(const ModelConfig& config) {
  return {.hidden_size = config.hidden_size,
          .moe_intermediate_size = config.moe_intermediate_size,
          .n_routed_experts = config.n_routed_experts,
          .num_experts_per_tok = config.num_experts_per_tok};
}

int32_t moe_layer_idx(const ModelConfig& config, int32_t layer_idx) {
  int32_t num_before = 0;
  for (int32_t idx = 0; idx < layer_idx; ++idx) num_before += config.is_dense(idx) ? 0 : 1;
  return num_before;
}

LayerWeights upload_layer(gpu::Ops& ops, const Checkpoint& checkpoint, int32_t layer_idx) {
  const ModelConfig& config = checkpoint.config();
  const LayerTensors tensors = checkpoint.layer(layer_idx);
  LayerWeights weights;
  weights.attention = upload_attention(ops, config, tensors);
  weights.post_attention_layernorm = {ops, tensors.post_attention_layernorm};
  if (config.is_dense(layer_idx)) {
    weights.mlp = upload_mlp(ops, tensors.mlp);
    return weights;
  }
  weights.gate = ops.load_linear(tensors.gate);
  weights.e_score_correction_bias = {ops, std::span<const float>(tensors.e_score_correction_bias)};
  if (config.n_shared_experts > 0) weights.mlp = upload_mlp(ops, tensors.shared_experts);
  return weights;
}

std::unique_ptr<gpu::DeviceBuffer> upload_embedding(gpu::Ops& ops, const Checkpoint& checkpoint) {
  const MatrixView<const bf16> table = checkpoint.embed_tokens();
  const std::span<const bf16> values{table.data, static_cast<size_t>(table.rows * table.cols)};
  return ops.upload(std::as_bytes(values));
}

HeadWeights upload_head(gpu::Ops& ops, const Checkpoint& checkpoint) {
  return {.norm = {ops, checkpoint.norm()}, .lm_head = ops.load_linear(checkpoint.lm_head())};
}

int64_t dense_read_bytes(const ModelConfig& config) {
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.num_attention_heads;
  const int64_t q_out = heads * config.qk_head_dim();
  const int64_t q = config.q_lora_rank > 0 ? config.q_lora_rank * (hidden + q_out) : q_out * hidden;
  const int64_t kv_b = heads * (config.qk_nope_head_dim + config.v_head_dim) * config.kv_lora_rank;
  const int64_t attention =
      q + config.kv_dim() * hidden + kv_b + hidden * heads * config.v_head_dim;
  int64_t weights = int64_t{config.vocab_size} * hidden;
  for (int32_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    weights += attention;
    weights += config.is_dense(layer_idx) ? 3 * hidden * config.intermediate_size
                                          : hidden * config.n_routed_experts +
                                                3 * hidden * config.shared_intermediate_size();
  }
  return weights * int64_t{sizeof(bf16)};
}

}  // namespace tandem::offload
