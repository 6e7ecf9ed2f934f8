// One logical device and what of the model lies on it: a run of layers with their KV, a workspace;
// the embedding on the first device, the head on the last.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "gpu/ops.h"
#include "offload/attention_layer.h"
#include "offload/placement.h"
#include "offload/weights.h"
#include "offload/workspace.h"

namespace tandem::offload {

class DevicePart {
 public:
  // Takes all memory but that of the weights. Throws LoadError.
  DevicePart(std::unique_ptr<gpu::Ops> ops,
             const ModelConfig& config,
             const Placement& placement,
             const DevicePlacement& part,
             int32_t max_batch_tokens);

  [[nodiscard]] gpu::Ops& ops() const { return *ops_; }
  [[nodiscard]] Workspace& workspace() { return workspace_; }
  [[nodiscard]] const AttentionContext& attention() const { return attention_; }

  // Layers first_layer_idx .. first_layer_idx + num_layers - 1 lie here.
  [[nodiscard]] int32_t first_layer_idx() const { return first_layer_idx_; }
  [[nodiscard]] int32_t num_layers() const { return num_layers_; }
  // In ascending order; without routed experts, which follow where they lie on the device.
  void load_layer(const Checkpoint& checkpoint, int32_t layer_idx);
  void set_experts(int32_t layer_idx, std::unique_ptr<gpu::ExpertsWeight> experts) {
    layers_[static_cast<size_t>(layer_idx - first_layer_idx_)].experts = std::move(experts);
  }
  [[nodiscard]] const LayerWeights& layer(int32_t layer_idx) const {
    return layers_[static_cast<size_t>(layer_idx - first_layer_idx_)];
  }
  [[nodiscard]] gpu::KvCacheLayer cache_of(int32_t layer_idx) const;

 private:
  std::unique_ptr<gpu::Ops> ops_;
  Workspace workspace_;
  int32_t first_layer_idx_;
  int32_t num_layers_;
  int32_t num_kv_pages_;
  DeviceVector<float> frequencies_;  // of RoPE
  AttentionContext attention_;
  std::unique_ptr<gpu::DeviceBuffer> kv_cache_;  // [num_layers, num_kv_pages, 64, kv_dim] bf16
  std::vector<LayerWeights> layers_;
};

}  // namespace tandem::offload
