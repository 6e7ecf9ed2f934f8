// One logical device and what of the model lies on it: a run of layers with their KV, a workspace;
// the embedding on the first device, the head on the last.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "gpu/ops.h"
#include "offload/attention_layer.h"
#include "offload/kv_cache.h"
#include "offload/placement.h"
#include "offload/weights.h"
#include "offload/workspace.h"

namespace tandem::offload {

class DevicePart {
 public:
  // Takes nothing yet. `config` outlives it.
  DevicePart(std::unique_ptr<gpu::Ops> ops,
             const ModelConfig& config,
             const Placement& placement,
             const DevicePlacement& part,
             int32_t max_batch_tokens);

  // Memory by its kinds: what a step works in, the KV cache (empty), weights. Each is taken once
  // and may be given back, before it was taken as well; the first goes before the others. Throws
  // LoadError.
  void take_workspace();
  void take_kv_cache();
  void give_back_workspace();
  void give_back_kv_cache() { kv_cache_.reset(); }
  void give_back_weights() {
    layers_.clear();
    frequencies_ = {};
  }

  [[nodiscard]] gpu::Ops& ops() const { return *ops_; }
  [[nodiscard]] Workspace& workspace() { return *workspace_; }
  [[nodiscard]] const AttentionContext& attention() const { return attention_; }

  // Layers first_layer_idx .. first_layer_idx + num_layers - 1 lie here.
  [[nodiscard]] int32_t first_layer_idx() const { return part_.first_layer_idx; }
  [[nodiscard]] int32_t num_layers() const { return part_.num_layers; }
  // In ascending order; without routed experts, which follow where they lie on the device.
  void load_layer(const Checkpoint& checkpoint, int32_t layer_idx);
  void set_experts(int32_t layer_idx, std::unique_ptr<gpu::ExpertsWeight> experts) {
    layers_[static_cast<size_t>(layer_idx - part_.first_layer_idx)].experts = std::move(experts);
  }
  [[nodiscard]] const LayerWeights& layer(int32_t layer_idx) const {
    return layers_[static_cast<size_t>(layer_idx - part_.first_layer_idx)];
  }
  [[nodiscard]] KvCache& kv_cache() { return *kv_cache_; }
  [[nodiscard]] gpu::KvCacheLayer cache_of(int32_t layer_idx) const {
    return kv_cache_->layer(layer_idx - part_.first_layer_idx);
  }

 private:
  std::unique_ptr<gpu::Ops> ops_;
  const ModelConfig& config_;
  DevicePlacement part_;
  int32_t num_kv_pages_;
  gpu::OpsLimits limits_;
  DeviceVector<float> frequencies_;  // of RoPE
  AttentionContext attention_;
  std::optional<Workspace> workspace_;
  std::optional<KvCache> kv_cache_;
  std::vector<LayerWeights> layers_;
};

}  // namespace tandem::offload
