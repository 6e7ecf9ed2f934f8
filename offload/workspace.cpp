#include "offload/workspace.h"

#include <algorithm>

namespace tandem::offload {
namespace {

constexpr int64_t kAlignmentBytes = 64;

template <typename T>
void place(
    MatrixView<T>& matrix, int64_t rows, int64_t cols, std::byte* base, int64_t& offset_bytes) {
  T* data = base == nullptr ? nullptr : reinterpret_cast<T*>(base + offset_bytes);
  matrix = MatrixView<T>(data, rows, cols);
  const int64_t size_bytes = rows * cols * int64_t{sizeof(T)};
  offset_bytes += (size_bytes + kAlignmentBytes - 1) / kAlignmentBytes * kAlignmentBytes;
}

int64_t top_k_of(const ModelConfig& config) { return std::max(config.num_experts_per_tok, 1); }

}  // namespace

int64_t Workspace::lay_out(std::byte* base,
                           const ModelConfig& config,
                           const WorkspaceLimits& limits) {
  const int64_t tokens = limits.max_batch_tokens;
  const int64_t hidden = config.hidden_size;
  const int64_t heads = config.num_attention_heads;
  const int64_t top_k = top_k_of(config);
  const int64_t intermediate =
      std::max(config.intermediate_size, config.shared_intermediate_size());
  int64_t offset_bytes = 0;
  place(residual, tokens, hidden, base, offset_bytes);
  place(normed, tokens, hidden, base, offset_bytes);
  place(qkv_a, tokens, config.q_lora_rank + config.kv_dim(), base, offset_bytes);
  place(q_latent, tokens, config.q_lora_rank, base, offset_bytes);
  place(q, tokens, heads * config.qk_head_dim(), base, offset_bytes);
  place(attention_out, tokens, heads * config.v_head_dim, base, offset_bytes);
  place(gate_up, tokens, std::max(2 * intermediate, hidden), base, offset_bytes);
  shared_sum = gate_up.columns(0, hidden);
  place(activated, tokens, intermediate, base, offset_bytes);
  place(expert_ids, tokens, top_k, base, offset_bytes);
  place(expert_weights, tokens, top_k, base, offset_bytes);
  place(logit_residual, limits.max_logit_rows, hidden, base, offset_bytes);
  place(logit_normed, limits.max_logit_rows, hidden, base, offset_bytes);
  place(logits, limits.max_logit_rows, config.vocab_size, base, offset_bytes);
  return offset_bytes;
}

int64_t Workspace::lay_out_host(std::byte* base,
                                const ModelConfig& config,
                                const WorkspaceLimits& limits,
                                bool memory_is_host) {
  const int64_t tokens = limits.max_batch_tokens;
  int64_t offset_bytes = 0;
  place(host_routed_sum, tokens, config.hidden_size, base, offset_bytes);
  place(host_token_ids, 1, limits.max_logit_rows, base, offset_bytes);
  if (memory_is_host) {
    host_normed = normed;
    host_expert_ids = expert_ids;
    host_expert_weights = expert_weights;
    host_logits = logits;
  } else {
    place(host_normed, tokens, config.hidden_size, base, offset_bytes);
    place(host_expert_ids, tokens, top_k_of(config), base, offset_bytes);
    place(host_expert_weights, tokens, top_k_of(config), base, offset_bytes);
    place(host_logits, limits.max_logit_rows, config.vocab_size, base, offset_bytes);
  }
  return offset_bytes;
}

int64_t Workspace::planned_size_bytes(const ModelConfig& config, const WorkspaceLimits& limits) {
  Workspace plan;
  return plan.lay_out(nullptr, config, limits);
}

int64_t Workspace::planned_host_size_bytes(const ModelConfig& config,
                                           const WorkspaceLimits& limits,
                                           bool memory_is_host) {
  Workspace plan;
  return plan.lay_out_host(nullptr, config, limits, memory_is_host);
}

Workspace::Workspace(gpu::Ops& ops, const ModelConfig& config, const WorkspaceLimits& limits)
    : size_bytes_(planned_size_bytes(config, limits)),
      buffer_(ops.allocate(static_cast<size_t>(size_bytes_))),
      host_buffer_(ops.allocate_host(
          static_cast<size_t>(planned_host_size_bytes(config, limits, ops.memory_is_host())))) {
  lay_out(buffer_->data(), config, limits);
  lay_out_host(host_buffer_->data(), config, limits, ops.memory_is_host());
}

}  // namespace tandem::offload
