// Weights of the dense part on a device, uploaded from the checkpoint: norms, projections, router,
// shared experts.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "gpu/ops.h"
#include "runtime/model/checkpoint.h"

namespace tandem::offload {

// A vector on the device: norm weights, biases.
template <typename T>
class DeviceVector {
 public:
  DeviceVector() = default;
  DeviceVector(gpu::Ops& ops, std::span<const T> host)
      : buffer_(ops.upload(std::as_bytes(host))), num_values_(host.size()) {}
  [[nodiscard]] std::span<const T> view() const {
    return {reinterpret_cast<const T*>(buffer_->data()), num_values_};
  }

 private:
  std::unique_ptr<gpu::DeviceBuffer> buffer_;
  size_t num_values_ = 0;
};

struct AttentionWeights {
  DeviceVector<bf16> input_layernorm;  // [hidden_size]
  // q_lora_rank > 0: q_a_proj and kv_a_proj_with_mqa in one matrix [q_lora_rank + kv_dim,
  // hidden_size]. q_lora_rank == 0: kv_a_proj_with_mqa alone, and q_b is the checkpoint's q_proj.
  std::unique_ptr<gpu::LinearWeight> qkv_a;
  DeviceVector<bf16> q_a_layernorm;        // [q_lora_rank]
  std::unique_ptr<gpu::LinearWeight> q_b;  // [heads * qk_head_dim, q_lora_rank or hidden_size]
  DeviceVector<bf16> kv_a_layernorm;       // [kv_lora_rank]
  std::unique_ptr<gpu::KvBWeight> kv_b;
  std::unique_ptr<gpu::LinearWeight> o_proj;  // [hidden_size, heads * v_head_dim]
};

struct MlpWeights {
  std::unique_ptr<gpu::LinearWeight> gate_up;  // [2 * intermediate, hidden_size], gate rows first
  std::unique_ptr<gpu::LinearWeight> down;     // [hidden_size, intermediate]
};

struct LayerWeights {
  AttentionWeights attention;
  DeviceVector<bf16> post_attention_layernorm;  // [hidden_size]
  MlpWeights mlp;  // the dense MLP, or the shared experts of a MoE layer
  std::unique_ptr<gpu::LinearWeight>
      gate;  // router [n_routed_experts, hidden_size]; MoE layers only
  DeviceVector<float> e_score_correction_bias;  // [n_routed_experts]; MoE layers only
  std::unique_ptr<gpu::ExpertsWeight> experts;  // the routed ones, where they lie on the device
};

struct HeadWeights {
  DeviceVector<bf16> norm;                     // [hidden_size]
  std::unique_ptr<gpu::LinearWeight> lm_head;  // [vocab_size, hidden_size]
};

gpu::MlaShape mla_shape(const ModelConfig& config);
gpu::RouterParams router_params(const ModelConfig& config);
gpu::ExpertsShape experts_shape(const ModelConfig& config);
// Of all MoE layers, the how manieth a layer that is one is.
int32_t moe_layer_idx(const ModelConfig& config, int32_t layer_idx);

LayerWeights upload_layer(gpu::Ops& ops, const Checkpoint& checkpoint, int32_t layer_idx);
// embed_tokens [vocab_size, hidden_size]
std::unique_ptr<gpu::DeviceBuffer> upload_embedding(gpu::Ops& ops, const Checkpoint& checkpoint);
HeadWeights upload_head(gpu::Ops& ops, const Checkpoint& checkpoint);

// Bytes of the matrices above that every decode step reads (lm_head included, embedding rows not).
int64_t dense_read_bytes(const ModelConfig& config);

}  // namespace tandem::offload
