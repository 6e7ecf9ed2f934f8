#include "offload/device_part.h"

#include <span>
#include <utility>

#include "runtime/base/check.h"

namespace tandem::offload {

DevicePart::DevicePart(std::unique_ptr<gpu::Ops> ops,
                       const ModelConfig& config,
                       const Placement& placement,
                       const DevicePlacement& part,
                       int32_t max_batch_tokens)
    : ops_(std::move(ops)),
      workspace_(*ops_, config, {max_batch_tokens, part.max_logit_rows}),
      first_layer_idx_(part.first_layer_idx),
      num_layers_(part.num_layers),
      num_kv_pages_(placement.num_kv_pages),
      frequencies_(*ops_, std::span<const float>(rope_frequencies(config))),
      attention_{.shape = mla_shape(config),
                 .rms_norm_eps = config.rms_norm_eps,
                 .lora_rms_norm_eps = config.lora_rms_norm_eps,
                 .q_lora_rank = config.q_lora_rank,
                 .frequencies = frequencies_.view(),
                 .magnitude = rope_magnitude(config)},
      kv_cache_(ops_->allocate(static_cast<size_t>(part.kv_size_bytes))) {
  // The devices of a step agree on its rows, so the limit for logits is that of all.
  ops_->reserve({.max_batch_tokens = max_batch_tokens,
                 .max_logit_rows = placement.devices.back().max_logit_rows,
                 .max_context_tokens = placement.max_context_tokens,
                 .n_routed_experts = config.n_routed_experts,
                 .experts = placement.num_device_expert_layers > 0 ? experts_shape(config)
                                                                   : gpu::ExpertsShape{}},
                attention_.shape);
}

void DevicePart::load_layer(const Checkpoint& checkpoint, int32_t layer_idx) {
  TANDEM_CHECK(layer_idx == first_layer_idx_ + static_cast<int32_t>(layers_.size()),
               "layers come in ascending order");
  layers_.push_back(upload_layer(*ops_, checkpoint, layer_idx));
}

gpu::KvCacheLayer DevicePart::cache_of(int32_t layer_idx) const {
  const int64_t layer_values = int64_t{num_kv_pages_} * kPageSizeTokens * attention_.shape.kv_dim();
  return {.data = reinterpret_cast<bf16*>(kv_cache_->data()) +
                  (layer_idx - first_layer_idx_) * layer_values,
          .num_pages = num_kv_pages_};
}

}  // namespace tandem::offload
