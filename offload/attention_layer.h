// Attention of one layer: residual += W_o MLA(rms_norm(residual)), equations 2 to 10.
#pragma once

#include <cstdint>
#include <span>

#include "gpu/ops.h"
#include "offload/weights.h"
#include "offload/workspace.h"

namespace tandem::offload {

// What all layers share.
struct AttentionContext {
  gpu::MlaShape shape;
  float rms_norm_eps = 0.0f;
  float lora_rms_norm_eps = 0.0f;  // q_a_layernorm and kv_a_layernorm
  int32_t q_lora_rank = 0;
  std::span<const float> frequencies;  // [qk_rope_head_dim / 2], on the device
  float magnitude = 1.0f;
};

void run_attention(gpu::Ops& ops,
                   const AttentionContext& context,
                   const AttentionWeights& weights,
                   const gpu::KvCacheLayer& cache,
                   int64_t num_rows,  // of the step
                   Workspace& workspace);

}  // namespace tandem::offload
