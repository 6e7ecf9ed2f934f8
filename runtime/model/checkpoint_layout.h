// Which tensors a checkpoint of a given configuration holds (model/spec.md §2.2): the one table
// behind Checkpoint::open, `tandem check` and `tandem make-checkpoint`.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model/model_config.h"
#include "runtime/model/tensor_index.h"

namespace tandem {

enum class TensorKind {
  kRoutedExperts,
  kAttention,
  kDenseMlp,
  kSharedExperts,
  kRouter,
  kEmbedding,
  kLmHead,
  kNorms
};
std::string_view kind_name(TensorKind kind);  // "routed experts", ...

struct ExpectedTensor {
  std::string name;  // with the prefix
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
  TensorKind kind = TensorKind::kNorms;
  bool is_required = true;
  bool is_checked = true;     // weight_shape: written by tools with garbage in it, never read
  bool accepts_bf16 = false;  // e_score_correction_bias: F32, or BF16
  [[nodiscard]] int64_t size_bytes() const;
};
using ExpectedTensorFn = std::function<void(const ExpectedTensor&)>;

void visit_layer_tensors(const ModelConfig& config, int32_t layer_idx, const ExpectedTensorFn& fn);
void visit_outer_tensors(const ModelConfig& config, const ExpectedTensorFn& fn);  // embed norm head
void visit_all_tensors(const ModelConfig& config, const ExpectedTensorFn& fn);

// "model.layers.3.", with the prefix.
std::string layer_prefix(const ModelConfig& config, int32_t layer_idx);
std::string expert_prefix(const ModelConfig& config, int32_t layer_idx, int32_t expert_idx);

// What is wrong with the tensor in `index`, in one sentence; nothing when all is well.
std::optional<std::string> find_problem(const TensorIndex& index, const ExpectedTensor& expected);

// Tells by the tensors' names whether they carry "language_model.", whatever config.json looks
// like.
void settle_tensor_prefix(const TensorIndex& index, ModelConfig& config);

}  // namespace tandem
