// The choice of experts (model/spec.md equations 12-14) from one token's logits.
#pragma once

#include <cstdint>
#include <span>

#include "gpu/ops.h"

namespace tandem::gpu::host {

// logits [n_routed_experts] in; on return the scores. `choice` [n_routed_experts] is work space.
void choose_experts(std::span<float> logits,
                    std::span<const float> e_score_correction_bias,
                    const RouterParams& params,
                    std::span<float> choice,
                    std::span<int32_t> expert_ids,
                    std::span<float> expert_weights);

}  // namespace tandem::gpu::host
