#include "runtime/model/checkpoint.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/model/checkpoint_layout.h"
#include "runtime/model/int4_encoder.h"

namespace tandem {

namespace {

MlpTensors mlp_tensors(const TensorIndex& index,
                       const std::string& prefix,
                       int64_t intermediate,
                       int64_t hidden_size) {
  MlpTensors mlp;
  mlp.gate_proj = index.bf16_matrix(prefix + "gate_proj.weight", intermediate, hidden_size);
  mlp.up_proj = index.bf16_matrix(prefix + "up_proj.weight", intermediate, hidden_size);
  mlp.down_proj = index.bf16_matrix(prefix + "down_proj.weight", hidden_size, intermediate);
  return mlp;
}

// A projection [rows, cols] and where its part of an ExpertScratch begins, in weights.
struct Projection {
  const char* name;
  int64_t rows = 0, cols = 0;
  int64_t first_weight = 0;
};
std::array<Projection, 3> projections_of(const ModelConfig& config) {
  const int64_t hidden_size = config.hidden_size;
  const int64_t intermediate = config.moe_intermediate_size;
  const int64_t num_weights = hidden_size * intermediate;
  return {{{"gate_proj", intermediate, hidden_size, 0},
           {"up_proj", intermediate, hidden_size, num_weights},
           {"down_proj", hidden_size, intermediate, 2 * num_weights}}};
}
int64_t num_expert_weights(const ModelConfig& config) {
  return 3 * int64_t{config.hidden_size} * config.moe_intermediate_size;
}

MatrixView<bf16> scale_part(Checkpoint::ExpertScratch& scratch,
                            const ModelConfig& config,
                            const Projection& projection) {
  scratch.scale.resize(static_cast<size_t>(num_expert_weights(config) / kInt4GroupSize));
  return {scratch.scale.data() + projection.first_weight / kInt4GroupSize, projection.rows,
          projection.cols / kInt4GroupSize};
}

// The checkpoint's own INT4: bytes need no alignment; scales that lie unaligned go to the scratch.
Int4Matrix int4_view(const TensorIndex& index,
                     const ModelConfig& config,
                     const std::string& expert_name,
                     const Projection& projection,
                     Checkpoint::ExpertScratch& scratch,
                     Checkpoint::BytesOf bytes_of) {
  const std::string name = expert_name + projection.name;
  const int64_t num_groups = projection.cols / kInt4GroupSize;
  const std::array packed_shape{projection.rows, projection.cols / 8};
  const std::array scale_shape{projection.rows, num_groups};
  const TensorInfo& packed_info = index.require(name + ".weight_packed", DType::kI32, packed_shape);
  const TensorInfo& scale_info = index.require(name + ".weight_scale", DType::kBF16, scale_shape);
  Int4Matrix matrix;
  matrix.packed = {reinterpret_cast<const uint8_t*>(bytes_of(packed_info).data()), projection.rows,
                   projection.cols / 2};
  const std::span<const std::byte> scale = bytes_of(scale_info);
  if (reinterpret_cast<uintptr_t>(scale.data()) % alignof(bf16) == 0) {
    matrix.scale = {reinterpret_cast<const bf16*>(scale.data()), projection.rows, num_groups};
  } else {
    const MatrixView<bf16> aligned = scale_part(scratch, config, projection);
    std::memcpy(aligned.data, scale.data(), scale.size());
    matrix.scale = aligned;
  }
  return matrix;
}

Int4Matrix quantised(MatrixView<const bf16> weights,
                     const ModelConfig& config,
                     const std::string& expert_name,
                     const Projection& projection,
                     Checkpoint::ExpertScratch& scratch) {
  scratch.packed.resize(static_cast<size_t>(num_expert_weights(config) / 2));
  const MatrixView<uint8_t> packed(scratch.packed.data() + projection.first_weight / 2,
                                   projection.rows, projection.cols / 2);
  const MatrixView<bf16> scale = scale_part(scratch, config, projection);
  if (!encode_int4(weights, packed, scale)) {
    throw LoadError(
        fmt::format("tensor '{}{}.weight' holds infinities or NaN, expected finite weights",
                    expert_name, projection.name));
  }
  return {packed, scale};
}

}  // namespace

Checkpoint::Checkpoint(std::filesystem::path dir, ModelConfig config, TensorIndex index)
    : dir_(std::move(dir)), config_(std::move(config)), index_(std::move(index)) {}

Checkpoint Checkpoint::open(const std::filesystem::path& model_dir) {
  ModelConfig config = ModelConfig::load(model_dir);
  TensorIndex index = TensorIndex::open(model_dir);
  settle_tensor_prefix(index, config);
  visit_all_tensors(config, [&](const ExpectedTensor& expected) {
    const std::optional<std::string> problem = find_problem(index, expected);
    if (problem) throw LoadError(fmt::format("{}: {}", model_dir.string(), *problem));
  });
  return {model_dir, std::move(config), std::move(index)};
}

MatrixView<const bf16> Checkpoint::embed_tokens() const {
  return index_.bf16_matrix(config_.tensor_prefix + "model.embed_tokens.weight", config_.vocab_size,
                            config_.hidden_size);
}

std::span<const bf16> Checkpoint::norm() const {
  return index_.bf16_vector(config_.tensor_prefix + "model.norm.weight", config_.hidden_size);
}

MatrixView<const bf16> Checkpoint::lm_head() const {
  if (config_.tie_word_embeddings) return embed_tokens();
  return index_.bf16_matrix(config_.tensor_prefix + "lm_head.weight", config_.vocab_size,
                            config_.hidden_size);
}

LayerTensors Checkpoint::layer(int32_t layer_idx) const {
  TANDEM_CHECK(layer_idx >= 0 && layer_idx < config_.num_hidden_layers, "layer_idx");
  const std::string prefix = layer_prefix(config_, layer_idx);
  const std::string attention = prefix + "self_attn.";
  const int64_t heads = config_.num_attention_heads;
  const int64_t hidden_size = config_.hidden_size;
  const int64_t q_rows = heads * config_.qk_head_dim();

  LayerTensors layer;
  layer.input_layernorm = index_.bf16_vector(prefix + "input_layernorm.weight", hidden_size);
  layer.post_attention_layernorm =
      index_.bf16_vector(prefix + "post_attention_layernorm.weight", hidden_size);
  if (config_.q_lora_rank == 0) {
    layer.q_proj = index_.bf16_matrix(attention + "q_proj.weight", q_rows, hidden_size);
  } else {
    const int64_t rank = config_.q_lora_rank;
    layer.q_a_proj = index_.bf16_matrix(attention + "q_a_proj.weight", rank, hidden_size);
    layer.q_a_layernorm = index_.bf16_vector(attention + "q_a_layernorm.weight", rank);
    layer.q_b_proj = index_.bf16_matrix(attention + "q_b_proj.weight", q_rows, rank);
  }
  layer.kv_a_proj_with_mqa =
      index_.bf16_matrix(attention + "kv_a_proj_with_mqa.weight", config_.kv_dim(), hidden_size);
  layer.kv_a_layernorm =
      index_.bf16_vector(attention + "kv_a_layernorm.weight", config_.kv_lora_rank);
  layer.kv_b_proj = index_.bf16_matrix(attention + "kv_b_proj.weight",
                                       heads * (config_.qk_nope_head_dim + config_.v_head_dim),
                                       config_.kv_lora_rank);
  layer.o_proj =
      index_.bf16_matrix(attention + "o_proj.weight", hidden_size, heads * config_.v_head_dim);

  if (config_.is_dense(layer_idx)) {
    layer.mlp = mlp_tensors(index_, prefix + "mlp.", config_.intermediate_size, hidden_size);
    return layer;
  }
  layer.gate =
      index_.bf16_matrix(prefix + "mlp.gate.weight", config_.n_routed_experts, hidden_size);
  layer.e_score_correction_bias.assign(config_.n_routed_experts, 0.0f);
  const std::string bias_name = prefix + "mlp.gate.e_score_correction_bias";
  if (const TensorInfo* const info = index_.find(bias_name)) {
    std::vector<float>& bias = layer.e_score_correction_bias;
    if (info->dtype == DType::kBF16) {
      const auto stored = index_.bf16_vector(bias_name, config_.n_routed_experts);
      std::ranges::transform(stored, bias.begin(), &bf16::to_float);
    } else {
      const auto stored = index_.f32_vector(bias_name, config_.n_routed_experts);
      bias.assign(stored.begin(), stored.end());
    }
  }
  if (config_.n_shared_experts > 0) {
    layer.shared_experts = mlp_tensors(index_, prefix + "mlp.shared_experts.",
                                       config_.shared_intermediate_size(), hidden_size);
  }
  return layer;
}

ExpertTensors Checkpoint::expert(int32_t layer_idx,
                                 int32_t expert_idx,
                                 ExpertScratch& scratch) const {
  if (config_.experts_int4) {
    return expert(layer_idx, expert_idx, scratch,
                  [&](const TensorInfo& info) { return index_.bytes(info); });
  }
  const std::string name = expert_prefix(config_, layer_idx, expert_idx);
  const MlpTensors stored = bf16_expert(layer_idx, expert_idx);
  const auto [gate, up, down] = projections_of(config_);
  return {quantised(stored.gate_proj, config_, name, gate, scratch),
          quantised(stored.up_proj, config_, name, up, scratch),
          quantised(stored.down_proj, config_, name, down, scratch)};
}

ExpertTensors Checkpoint::expert(int32_t layer_idx,
                                 int32_t expert_idx,
                                 ExpertScratch& scratch,
                                 BytesOf bytes_of) const {
  TANDEM_CHECK(config_.experts_int4, "INT4 bytes of a BF16 checkpoint");
  const std::string name = expert_prefix(config_, layer_idx, expert_idx);
  const auto [gate, up, down] = projections_of(config_);
  return {int4_view(index_, config_, name, gate, scratch, bytes_of),
          int4_view(index_, config_, name, up, scratch, bytes_of),
          int4_view(index_, config_, name, down, scratch, bytes_of)};
}

std::vector<const TensorInfo*> Checkpoint::expert_infos(int32_t layer_idx,
                                                        int32_t expert_idx) const {
  const std::string prefix = expert_prefix(config_, layer_idx, expert_idx);
  std::vector<const TensorInfo*> infos;
  const auto add = [&](const std::string& name) {
    const TensorInfo* const info = index_.find(name);
    if (info == nullptr) throw LoadError(fmt::format("tensor '{}' is missing", name));
    infos.push_back(info);
  };
  for (const Projection& projection : projections_of(config_)) {
    if (config_.experts_int4) {
      add(prefix + projection.name + ".weight_packed");
      add(prefix + projection.name + ".weight_scale");
    } else {
      add(prefix + projection.name + ".weight");
    }
  }
  return infos;
}

MlpTensors Checkpoint::bf16_expert(int32_t layer_idx, int32_t expert_idx) const {
  TANDEM_CHECK(!config_.experts_int4, "bf16_expert() of an INT4 checkpoint");
  return mlp_tensors(index_, expert_prefix(config_, layer_idx, expert_idx),
                     config_.moe_intermediate_size, config_.hidden_size);
}

int64_t Checkpoint::resident_expert_size_bytes() const {
  const int64_t num_weights = 3 * int64_t{config_.hidden_size} * config_.moe_intermediate_size;
  const int64_t expert_size_bytes = num_weights / 2 + num_weights / kInt4GroupSize * 2;
  return expert_size_bytes * config_.n_routed_experts * config_.num_moe_layers();
}

int64_t Checkpoint::dense_size_bytes() const {
  int64_t size_bytes = 0;
  visit_all_tensors(config_, [&](const ExpectedTensor& expected) {
    if (expected.kind != TensorKind::kRoutedExperts) size_bytes += expected.size_bytes();
  });
  return size_bytes;
}

}  // namespace tandem
