#include "offload/device_part.h"

#include <span>
#include <utility>

#include "runtime/base/check.h"

namespace tandem::offload {

// The devices of a step agree on its rows, so the limit for logits is that of all.
DevicePart::DevicePart(std::unique_ptr<gpu::Ops> ops,
                       const ModelConfig& config,
                       const Placement& placement,
                       const DevicePlacement& part,
                       int32_t max_batch_tokens)
    : ops_(std::move(ops)),
      config_(config),
      part_(part),
      num_kv_pages_(placement.num_kv_pages),
      limits_{.max_batch_tokens = max_batch_tokens,
              .max_logit_rows = placement.devices.back().max_logit_rows,
              .max_context_tokens = placement.max_context_tokens,
              .n_routed_experts = config.n_routed_experts,
              .router = router_params(config),
              .experts = placement.num_device_expert_layers > 0 ? experts_shape(config)
                                                                : gpu::ExpertsShape{}},
      attention_{.shape = mla_shape(config),
                 .rms_norm_eps = config.rms_norm_eps,
                 .lora_rms_norm_eps = config.lora_rms_norm_eps,
                 .q_lora_rank = config.q_lora_rank,
                 .frequencies = {},
                 .magnitude = rope_magnitude(config)} {}

void DevicePart::take_workspace() {
  workspace_.emplace(*ops_, config_,
                     WorkspaceLimits{limits_.max_batch_tokens, part_.max_logit_rows});
  ops_->reserve(limits_, attention_.shape);
}

void DevicePart::take_kv_cache() {
  kv_cache_.emplace(*ops_, KvCacheShape{.num_layers = part_.num_layers,
                                        .num_pages = num_kv_pages_,
                                        .kv_dim = config_.kv_dim()});
}

void DevicePart::give_back_workspace() {
  ops_->release();
  workspace_.reset();
}

void DevicePart::load_layer(const Checkpoint& checkpoint, int32_t layer_idx) {
  TANDEM_CHECK(layer_idx == part_.first_layer_idx + static_cast<int32_t>(layers_.size()),
               "layers come in ascending order");
  if (layers_.empty()) {
    frequencies_ = {*ops_, std::span<const float>(rope_frequencies(config_))};
    attention_.frequencies = frequencies_.view();
  }
  layers_.push_back(upload_layer(*ops_, checkpoint, layer_idx));
}

}  // namespace tandem::offload
