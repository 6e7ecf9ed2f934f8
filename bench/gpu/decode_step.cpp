#include "bench/gpu/decode_step.h"

#include <span>
#include <vector>

#include "offload/moe_layer.h"

namespace tandem::bench {
namespace {

offload::DeviceVector<bf16> ones(gpu::Ops& ops, int32_t size) {
  const std::vector<bf16> values(static_cast<size_t>(size), bf16(1.0f));
  return {ops, std::span<const bf16>(values)};
}

}  // namespace

DecodeLayer::DecodeLayer(DeviceBench& bench, Kind kind, int32_t num_rows, int32_t context_tokens)
    : kind_(kind),
      config_(bench.config()),
      num_rows_(num_rows),
      frequencies_(bench.ops(), std::span<const float>(rope_frequencies(config_))),
      cache_(bench.kv_cache(num_rows, context_tokens + 1)),
      workspace_(bench.ops(), config_, {num_rows, num_rows}) {
  const auto linear = [&](int64_t out, int64_t in) {
    read_bytes_ += 2.0 * static_cast<double>(out * in);
    return bench.random_linear(out, in);
  };
  const int64_t hidden = config_.hidden_size;
  const int64_t heads = config_.num_attention_heads;
  const int64_t intermediate =
      kind == Kind::kDense ? config_.intermediate_size : config_.shared_intermediate_size();
  offload::AttentionWeights& attention = weights_.attention;
  attention.input_layernorm = ones(bench.ops(), config_.hidden_size);
  attention.qkv_a = linear(config_.q_lora_rank + config_.kv_dim(), hidden);
  attention.q_a_layernorm = ones(bench.ops(), config_.q_lora_rank);
  attention.q_b = linear(heads * config_.qk_head_dim(), config_.q_lora_rank);
  attention.kv_a_layernorm = ones(bench.ops(), config_.kv_lora_rank);
  attention.kv_b = bench.random_kv_b();
  attention.o_proj = linear(hidden, heads * config_.v_head_dim);
  weights_.post_attention_layernorm = ones(bench.ops(), config_.hidden_size);
  if (kind == Kind::kMoe) {
    weights_.gate = linear(config_.n_routed_experts, hidden);
    const std::vector<float> bias(static_cast<size_t>(config_.n_routed_experts), 0.0f);
    weights_.e_score_correction_bias = {bench.ops(), std::span<const float>(bias)};
  }
  weights_.mlp.gate_up = linear(2 * intermediate, hidden);
  weights_.mlp.down = linear(hidden, intermediate);
  read_bytes_ += 2.0 * static_cast<double>(heads * (config_.qk_nope_head_dim + config_.v_head_dim) *
                                           config_.kv_lora_rank);
  read_bytes_ += 2.0 * static_cast<double>(num_rows) * context_tokens * config_.kv_dim();
  attention_ = {.shape = bench.mla_shape(),
                .rms_norm_eps = config_.rms_norm_eps,
                .lora_rms_norm_eps = config_.lora_rms_norm_eps,
                .q_lora_rank = config_.q_lora_rank,
                .frequencies = frequencies_.view(),
                .magnitude = rope_magnitude(config_)};
}

void DecodeLayer::run(gpu::Ops& ops) {
  offload::run_attention(ops, attention_, weights_.attention, cache_, num_rows_, workspace_);
  if (kind_ == Kind::kDense) {
    offload::run_dense_mlp(ops, weights_, config_.rms_norm_eps, num_rows_, workspace_);
    return;
  }
  offload::route_tokens(ops, offload::router_params(config_), weights_, config_.rms_norm_eps,
                        num_rows_, workspace_);
  offload::run_shared_experts(ops, weights_, num_rows_, workspace_);
}

DecodeHead::DecodeHead(DeviceBench& bench, int32_t num_rows)
    : eps_(bench.config().rms_norm_eps),
      read_bytes_(2.0 * bench.config().vocab_size * bench.config().hidden_size) {
  const int64_t hidden = bench.config().hidden_size;
  weights_.norm = ones(bench.ops(), bench.config().hidden_size);
  weights_.lm_head = bench.random_linear(bench.config().vocab_size, hidden);
  residual_ = bench.matrix<float>(num_rows, hidden);
  gathered_ = bench.matrix<float>(num_rows, hidden);
  normed_ = bench.matrix<bf16>(num_rows, hidden);
  logits_ = bench.matrix<float>(num_rows, bench.config().vocab_size);
}

void DecodeHead::run(gpu::Ops& ops) {
  ops.gather_logit_rows(residual_, gathered_);
  ops.rms_norm(gathered_, weights_.norm.view(), eps_, normed_);
  ops.linear(normed_, *weights_.lm_head, logits_);
}

}  // namespace tandem::bench
