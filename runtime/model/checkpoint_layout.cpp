#include "runtime/model/checkpoint_layout.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include "runtime/model/expert_tensors.h"

namespace tandem {

namespace {

// One tensor after the other under a common prefix and kind.
class Emitter {
 public:
  Emitter(std::string prefix, TensorKind kind, const ExpectedTensorFn& fn)
      : prefix_(std::move(prefix)), kind_(kind), fn_(fn) {}
  void bf16(std::string_view name, std::vector<int64_t> shape) const {
    ExpectedTensor tensor;
    tensor.name = prefix_ + std::string(name);
    tensor.shape = std::move(shape);
    tensor.kind = kind_;
    fn_(tensor);
  }
  void mlp(int64_t intermediate, int64_t hidden) const {
    bf16("gate_proj.weight", {intermediate, hidden});
    bf16("up_proj.weight", {intermediate, hidden});
    bf16("down_proj.weight", {hidden, intermediate});
  }
  void int4(const char* name, int64_t rows, int64_t cols) const {
    ExpectedTensor tensor;
    tensor.kind = kind_;
    tensor.name = prefix_ + name + ".weight_packed";
    tensor.dtype = DType::kI32;
    tensor.shape = {rows, cols / 8};
    fn_(tensor);
    tensor.name = prefix_ + name + ".weight_scale";
    tensor.dtype = DType::kBF16;
    tensor.shape = {rows, cols / kInt4GroupSize};
    fn_(tensor);
    tensor.name = prefix_ + name + ".weight_shape";
    tensor.dtype = DType::kI32;
    tensor.shape = {2};
    tensor.is_required = tensor.is_checked = false;
    fn_(tensor);
  }
  void bias(const char* name, int64_t size) const {
    ExpectedTensor tensor;
    tensor.kind = kind_;
    tensor.name = prefix_ + name;
    tensor.dtype = DType::kF32;
    tensor.shape = {size};
    tensor.is_required = false;
    tensor.accepts_bf16 = true;
    fn_(tensor);
  }

 private:
  std::string prefix_;
  TensorKind kind_;
  const ExpectedTensorFn& fn_;
};

void visit_attention(const ModelConfig& config,
                     const std::string& layer,
                     const ExpectedTensorFn& fn) {
  const int64_t heads = config.num_attention_heads;
  const Emitter weights(layer + "self_attn.", TensorKind::kAttention, fn);
  const Emitter norms(layer + "self_attn.", TensorKind::kNorms, fn);
  const int64_t q_rows = heads * config.qk_head_dim();
  if (config.q_lora_rank == 0) {
    weights.bf16("q_proj.weight", {q_rows, config.hidden_size});
  } else {
    weights.bf16("q_a_proj.weight", {config.q_lora_rank, config.hidden_size});
    norms.bf16("q_a_layernorm.weight", {config.q_lora_rank});
    weights.bf16("q_b_proj.weight", {q_rows, config.q_lora_rank});
  }
  weights.bf16("kv_a_proj_with_mqa.weight", {config.kv_dim(), config.hidden_size});
  norms.bf16("kv_a_layernorm.weight", {config.kv_lora_rank});
  weights.bf16("kv_b_proj.weight",
               {heads * (config.qk_nope_head_dim + config.v_head_dim), config.kv_lora_rank});
  weights.bf16("o_proj.weight", {config.hidden_size, heads * config.v_head_dim});
}

void visit_experts(const ModelConfig& config, int32_t layer_idx, const ExpectedTensorFn& fn) {
  const std::string layer = layer_prefix(config, layer_idx);
  const Emitter router(layer + "mlp.gate.", TensorKind::kRouter, fn);
  router.bf16("weight", {config.n_routed_experts, config.hidden_size});
  router.bias("e_score_correction_bias", config.n_routed_experts);
  if (config.n_shared_experts > 0) {
    Emitter(layer + "mlp.shared_experts.", TensorKind::kSharedExperts, fn)
        .mlp(config.shared_intermediate_size(), config.hidden_size);
  }
  const int64_t intermediate = config.moe_intermediate_size;
  for (int32_t expert_idx = 0; expert_idx < config.n_routed_experts; ++expert_idx) {
    const Emitter expert(expert_prefix(config, layer_idx, expert_idx), TensorKind::kRoutedExperts,
                         fn);
    if (config.experts_int4) {
      expert.int4("gate_proj", intermediate, config.hidden_size);
      expert.int4("up_proj", intermediate, config.hidden_size);
      expert.int4("down_proj", config.hidden_size, intermediate);
    } else {
      expert.mlp(intermediate, config.hidden_size);
    }
  }
}

}  // namespace

std::string_view kind_name(TensorKind kind) {
  switch (kind) {
    case TensorKind::kRoutedExperts:
      return "routed experts";
    case TensorKind::kAttention:
      return "attention";
    case TensorKind::kDenseMlp:
      return "dense mlp";
    case TensorKind::kSharedExperts:
      return "shared experts";
    case TensorKind::kRouter:
      return "router";
    case TensorKind::kEmbedding:
      return "embedding";
    case TensorKind::kLmHead:
      return "lm_head";
    case TensorKind::kNorms:
      return "norms";
  }
  return "";
}

int64_t ExpectedTensor::size_bytes() const {
  int64_t result = dtype_size_bytes(dtype);
  for (const int64_t dimension : shape) result *= dimension;
  return result;
}

std::string layer_prefix(const ModelConfig& config, int32_t layer_idx) {
  return fmt::format("{}model.layers.{}.", config.tensor_prefix, layer_idx);
}

std::string expert_prefix(const ModelConfig& config, int32_t layer_idx, int32_t expert_idx) {
  return fmt::format("{}mlp.experts.{}.", layer_prefix(config, layer_idx), expert_idx);
}

void visit_layer_tensors(const ModelConfig& config, int32_t layer_idx, const ExpectedTensorFn& fn) {
  const std::string layer = layer_prefix(config, layer_idx);
  const Emitter norms(layer, TensorKind::kNorms, fn);
  norms.bf16("input_layernorm.weight", {config.hidden_size});
  visit_attention(config, layer, fn);
  norms.bf16("post_attention_layernorm.weight", {config.hidden_size});
  if (config.is_dense(layer_idx)) {
    Emitter(layer + "mlp.", TensorKind::kDenseMlp, fn)
        .mlp(config.intermediate_size, config.hidden_size);
  } else {
    visit_experts(config, layer_idx, fn);
  }
}

void visit_outer_tensors(const ModelConfig& config, const ExpectedTensorFn& fn) {
  const std::string& prefix = config.tensor_prefix;
  const int64_t hidden_size = config.hidden_size;
  Emitter(prefix + "model.", TensorKind::kEmbedding, fn)
      .bf16("embed_tokens.weight", {config.vocab_size, hidden_size});
  Emitter(prefix + "model.", TensorKind::kNorms, fn).bf16("norm.weight", {hidden_size});
  if (!config.tie_word_embeddings) {
    Emitter(prefix, TensorKind::kLmHead, fn)
        .bf16("lm_head.weight", {config.vocab_size, hidden_size});
  }
}

void visit_all_tensors(const ModelConfig& config, const ExpectedTensorFn& fn) {
  for (int32_t layer_idx = 0; layer_idx < config.num_hidden_layers; ++layer_idx) {
    visit_layer_tensors(config, layer_idx, fn);
  }
  visit_outer_tensors(config, fn);
}

std::optional<std::string> find_problem(const TensorIndex& index, const ExpectedTensor& expected) {
  if (!expected.is_checked) return std::nullopt;
  const std::string wanted =
      fmt::format("{} [{}]", dtype_name(expected.dtype), fmt::join(expected.shape, ", "));
  const TensorInfo* const info = index.find(expected.name);
  if (info == nullptr) {
    if (!expected.is_required) return std::nullopt;
    std::string hint;
    if (index.find(expected.name + "_packed") != nullptr) {
      hint = "; weight_packed is there, but config.json has no quantization_config for it";
    } else if (expected.name.ends_with(".weight_packed") &&
               index.find(expected.name.substr(0, expected.name.size() - 7)) != nullptr) {
      hint = "; weight is there, though config.json's quantization_config says INT4";
    }
    return fmt::format("tensor '{}' is missing, expected {}{}", expected.name, wanted, hint);
  }
  const bool is_dtype_right =
      info->dtype == expected.dtype || (expected.accepts_bf16 && info->dtype == DType::kBF16);
  if (is_dtype_right && info->shape == expected.shape) return std::nullopt;
  return fmt::format("{}: tensor '{}' is {}, expected {}", index.shards()[info->shard_idx].string(),
                     expected.name, describe(*info), wanted);
}

void settle_tensor_prefix(const TensorIndex& index, ModelConfig& config) {
  for (const std::string prefix : {"", "language_model."}) {
    if (index.find(config.tensor_prefix + "model.embed_tokens.weight") != nullptr) return;
    if (index.find(prefix + "model.embed_tokens.weight") != nullptr) config.tensor_prefix = prefix;
  }
}

}  // namespace tandem
