// A checkpoint folder opened as a Kimi-K2: configuration, tensors by their role, every shape
// checked.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/base/function_ref.h"
#include "runtime/model/expert_tensors.h"
#include "runtime/model/model_config.h"
#include "runtime/model/tensor_index.h"

namespace tandem {

struct MlpTensors {                  // dense MLP and shared experts
  MatrixView<const bf16> gate_proj;  // [intermediate, hidden_size]
  MatrixView<const bf16> up_proj;    // [intermediate, hidden_size]
  MatrixView<const bf16> down_proj;  // [hidden_size, intermediate]
};

struct LayerTensors {
  std::span<const bf16> input_layernorm;           // [hidden_size]
  std::span<const bf16> post_attention_layernorm;  // [hidden_size]
  MatrixView<const bf16> q_proj;  // [heads * qk_head_dim, hidden_size]; only when q_lora_rank == 0
  MatrixView<const bf16> q_a_proj;      // [q_lora_rank, hidden_size]
  std::span<const bf16> q_a_layernorm;  // [q_lora_rank]
  MatrixView<const bf16>
      q_b_proj;  // [heads * qk_head_dim, q_lora_rank]; per head nope first, then rope
  MatrixView<const bf16> kv_a_proj_with_mqa;  // [kv_lora_rank + qk_rope_head_dim, hidden_size]
  std::span<const bf16> kv_a_layernorm;       // [kv_lora_rank]
  MatrixView<const bf16> kv_b_proj;  // [heads * (qk_nope_head_dim + v_head_dim), kv_lora_rank]
  MatrixView<const bf16> o_proj;     // [hidden_size, heads * v_head_dim]
  MlpTensors mlp;                    // dense layers: intermediate_size
  MatrixView<const bf16> gate;       // MoE layers: router [n_routed_experts, hidden_size]
  std::vector<float>
      e_score_correction_bias;  // [n_routed_experts]; zeros when the tensor is absent
  MlpTensors shared_experts;    // n_shared_experts * moe_intermediate_size
};

class Checkpoint {
 public:
  // Throws LoadError / ConfigError for the first problem met. Unknown tensors are tolerated.
  static Checkpoint open(const std::filesystem::path& model_dir);

  [[nodiscard]] const ModelConfig& config() const { return config_; }
  [[nodiscard]] const TensorIndex& index() const { return index_; }
  [[nodiscard]] const std::filesystem::path& dir() const { return dir_; }

  [[nodiscard]] MatrixView<const bf16> embed_tokens() const;  // [vocab_size, hidden_size]
  [[nodiscard]] std::span<const bf16> norm() const;           // [hidden_size]
  [[nodiscard]] MatrixView<const bf16> lm_head()
      const;  // [vocab_size, hidden_size]; embed_tokens when tied
  [[nodiscard]] LayerTensors layer(int32_t layer_idx) const;

  // One routed expert of a MoE layer. INT4 checkpoints: views of the mapped file. BF16 checkpoints:
  // quantised to the same INT4 (scale = bf16(max|w| / 7), round half to even) into `scratch`, which
  // the views then point into.
  struct ExpertScratch {
    std::vector<uint8_t> packed;
    std::vector<bf16> scale;
  };
  // Thread-safe for different scratches. Throws LoadError naming a tensor with values that are not
  // finite.
  [[nodiscard]] ExpertTensors expert(int32_t layer_idx,
                                     int32_t expert_idx,
                                     ExpertScratch& scratch) const;
  // The same from bytes that the caller has read; only for checkpoints with INT4 experts.
  using BytesOf = FunctionRef<std::span<const std::byte>(const TensorInfo&)>;
  [[nodiscard]] ExpertTensors expert(int32_t layer_idx,
                                     int32_t expert_idx,
                                     ExpertScratch& scratch,
                                     BytesOf bytes_of) const;
  // The tensors that expert() reads.
  [[nodiscard]] std::vector<const TensorInfo*> expert_infos(int32_t layer_idx,
                                                            int32_t expert_idx) const;
  // The same expert as stored; only for checkpoints with BF16 experts (config().experts_int4 is
  // false).
  [[nodiscard]] MlpTensors bf16_expert(int32_t layer_idx, int32_t expert_idx) const;

  [[nodiscard]] int64_t resident_expert_size_bytes() const;  // 4.5 bits a weight
  [[nodiscard]] int64_t dense_size_bytes() const;            // all other tensors that are used

 private:
  Checkpoint(std::filesystem::path dir, ModelConfig config, TensorIndex index);
  std::filesystem::path dir_;
  ModelConfig config_;
  TensorIndex index_;
};

}  // namespace tandem
