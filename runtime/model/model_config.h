// config.json of a Kimi-K2 family checkpoint (model/spec.md §1): names are the file's own.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// rope_scaling of type "yarn" (equation 6); absent in Moonlight.
struct RopeScaling {
  float factor = 1.0f;
  int32_t original_max_position_embeddings = 4096;
  float beta_fast = 32.0f;
  float beta_slow = 1.0f;
  float mscale = 1.0f;
  float mscale_all_dim = 0.0f;
};

struct ModelConfig {
  std::string model_type;     // "kimi_k2", "deepseek_v3", ...; the inner one when nested
  std::string tensor_prefix;  // "" or "language_model." (K2.5's nesting under text_config)
  int32_t hidden_size = 0;
  int32_t num_hidden_layers = 0;
  int32_t first_k_dense_replace = 0;
  int32_t moe_layer_freq = 1;
  int32_t intermediate_size = 0;
  int32_t moe_intermediate_size = 0;
  int32_t n_routed_experts = 0;
  int32_t num_experts_per_tok = 0;
  int32_t n_shared_experts = 0;
  int32_t n_group = 1;
  int32_t topk_group = 1;
  bool norm_topk_prob = true;
  float routed_scaling_factor = 1.0f;
  int32_t num_attention_heads = 0;
  int32_t q_lora_rank = 0;  // 0: null in the file, q_proj takes the place of q_a/q_b (Moonlight)
  int32_t kv_lora_rank = 0;
  int32_t qk_nope_head_dim = 0;
  int32_t qk_rope_head_dim = 0;
  int32_t v_head_dim = 0;
  int32_t vocab_size = 0;
  int32_t max_position_embeddings = 0;
  float rope_theta = 10000.0f;
  std::optional<RopeScaling> rope_scaling;
  float rms_norm_eps = 1e-6f;
  // Epsilon of q_a_layernorm and kv_a_layernorm: Hugging Face builds them with its default, not
  // rms_norm_eps.
  float lora_rms_norm_eps = 1e-6f;
  bool tie_word_embeddings = false;
  bool experts_int4 = false;  // quantization_config: pack-quantized, 4 bits, group 32
  std::vector<int32_t> eos_token_ids;
  int32_t bos_token_id = -1;
  int32_t pad_token_id = -1;

  [[nodiscard]] bool is_dense(int32_t layer_idx) const {
    return layer_idx < first_k_dense_replace || layer_idx % moe_layer_freq != 0;
  }
  [[nodiscard]] int32_t num_moe_layers() const;
  [[nodiscard]] int32_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  [[nodiscard]] int32_t kv_dim() const {
    return kv_lora_rank + qk_rope_head_dim;
  }  // cached values a token and layer
  [[nodiscard]] int32_t shared_intermediate_size() const {
    return n_shared_experts * moe_intermediate_size;
  }

  // Throws ConfigError naming the key, its value and what was expected.
  static ModelConfig parse(std::string_view json_text);
  static ModelConfig load(const std::filesystem::path& model_dir);  // DIR/config.json
};

// Softmax scale with YaRN's correction, equation 7.
float softmax_scale(const ModelConfig& config);
// Rotary frequencies f_j, j < qk_rope_head_dim / 2, equation 6.
std::vector<float> rope_frequencies(const ModelConfig& config);
// Multiplier of cos and sin, m(factor, mscale) / m(factor, mscale_all_dim): 1 for the K2 family.
float rope_magnitude(const ModelConfig& config);

}  // namespace tandem
