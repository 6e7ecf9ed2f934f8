// RoPE of queries and keys, and the append of a token's latent KV to its page (equations 4 to 6).
#pragma once

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

inline constexpr int32_t kMaxRopeHeadDim = 256;

// For every token t with kv_slots[t] >= 0, others are left alone (the padding of a captured batch):
//   slot[0 : rank]     = rms_norm(kv_a[t, 0 : rank]; kv_a_layernorm, eps)
//   slot[rank : kv_dim] = rope(kv_a[t, rank : kv_dim], positions[t])
//   q[t, head, nope : nope + rope] is rotated in place, for every head
// Pairs are interleaved: (2i, 2i + 1) by the angle positions[t] * frequencies[i], an FP32 product.
// Slot s of the cache is token s % 64 of page s / 64, kv_dim = rank + rope values each.
struct RopeKvParams {
  MatrixView<bf16> q;            // [num_tokens, heads * (nope + rope)]
  MatrixView<const float> kv_a;  // [num_tokens, kv_dim]
  const int32_t* positions;      // [num_tokens]
  const int32_t* kv_slots;       // [num_tokens] page_id * 64 + position % 64, or -1
  const bf16* kv_a_layernorm;    // [rank]
  const float* frequencies;      // [rope / 2]
  bf16* cache;                   // [num_pages * 64, kv_dim]
  int32_t num_attention_heads;
  int32_t qk_nope_head_dim;
  int32_t qk_rope_head_dim;  // even, at most kMaxRopeHeadDim
  int32_t kv_lora_rank;
  float eps;
  float magnitude;  // multiplies cos and sin
};
void launch_rope_and_append_kv(const RopeKvParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
