// Activations of one step on one device, taken once for the largest batch.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "gpu/ops.h"
#include "runtime/model/model_config.h"

namespace tandem::offload {

struct WorkspaceLimits {
  int32_t max_batch_tokens = 0;
  int32_t max_logit_rows = 0;
};

// Sums that the residual still lacks, in the order in which they are added: the order is part of
// the bits. Rows of the step.
struct PendingSums {
  std::array<MatrixView<const float>, 2> sums;  // of the routed experts, of the shared ones
  size_t num = 0;
  [[nodiscard]] std::span<const MatrixView<const float>> views() const {
    return std::span(sums).first(num);
  }
  void push(MatrixView<const float> sum) { sums.at(num++) = sum; }
};

class Workspace {
 public:
  Workspace(gpu::Ops& ops, const ModelConfig& config, const WorkspaceLimits& limits);

  MatrixView<float> residual;      // [max_batch_tokens, hidden_size]
  MatrixView<bf16> normed;         // [max_batch_tokens, hidden_size]
  MatrixView<float> qkv_a;         // [max_batch_tokens, q_lora_rank + kv_dim]
  MatrixView<bf16> q_latent;       // [max_batch_tokens, q_lora_rank]
  MatrixView<bf16> q;              // [max_batch_tokens, heads * qk_head_dim]
  MatrixView<bf16> attention_out;  // [max_batch_tokens, heads * v_head_dim]
  MatrixView<float> gate_up;       // [max_batch_tokens, 2 * widest intermediate or hidden_size]
  MatrixView<float> shared_sum;    // [max_batch_tokens, hidden_size] where gate_up is read already
  MatrixView<bf16> activated;      // [max_batch_tokens, widest intermediate]
  MatrixView<int32_t> expert_ids;  // [max_batch_tokens, num_experts_per_tok]
  MatrixView<float> expert_weights;  // [max_batch_tokens, num_experts_per_tok]
  MatrixView<float> logit_residual;  // [max_logit_rows, hidden_size]
  MatrixView<bf16> logit_normed;     // [max_logit_rows, hidden_size]
  MatrixView<float> logits;          // [max_logit_rows, vocab_size]

  // What the CPU reads and writes, in host memory: all but the sum of the routed experts are the
  // device's own matrices where its memory is the host's, else copies.
  MatrixView<bf16> host_normed;           // [max_batch_tokens, hidden_size]
  MatrixView<int32_t> host_expert_ids;    // [max_batch_tokens, num_experts_per_tok]
  MatrixView<float> host_expert_weights;  // [max_batch_tokens, num_experts_per_tok]
  MatrixView<float> host_routed_sum;      // [max_batch_tokens, hidden_size]
  MatrixView<float> host_logits;          // [max_logit_rows, vocab_size]
  MatrixView<int32_t> host_token_ids;     // [1, max_logit_rows] chosen on the device

  PendingSums pending;

  [[nodiscard]] int64_t size_bytes() const { return size_bytes_; }
  // On the device, and on the host beside it.
  static int64_t planned_size_bytes(const ModelConfig& config, const WorkspaceLimits& limits);
  static int64_t planned_host_size_bytes(const ModelConfig& config,
                                         const WorkspaceLimits& limits,
                                         bool memory_is_host);

 private:
  // Walks all matrices in order; with a null base it only counts, so that plan and allocation
  // cannot differ.
  int64_t lay_out(std::byte* base, const ModelConfig& config, const WorkspaceLimits& limits);
  int64_t lay_out_host(std::byte* base,
                       const ModelConfig& config,
                       const WorkspaceLimits& limits,
                       bool memory_is_host);
  Workspace() = default;

  int64_t size_bytes_ = 0;
  std::unique_ptr<gpu::DeviceBuffer> buffer_;
  std::unique_ptr<gpu::DeviceBuffer> host_buffer_;
};

}  // namespace tandem::offload
