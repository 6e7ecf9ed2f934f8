// Expanded MLA attention of one sequence against one block of expanded keys and values (equation
// 8), with FlashInfer's prefill kernels: query heads of 192, value heads of 128, BF16.
//
//   out[t, h, :] = sum_u p[t, h, u] v[u, h, :],  p = softmax_u(softmax_scale * q[t, h] . k[u, h])
//   lse[t, h]    = log2 sum_u 2^(log2(e) * softmax_scale * q . k)
//
// What FlashInfer 0.7.2 (attention/prefill.cuh, attention/hopper/prefill_sm90.cuh) assumes:
// * causal: the queries are the last q_len of the kv_len keys: query t sees keys up to
//   kv_len - q_len + t. Keys before all queries are a block of their own, not causal, and the
//   blocks are then merged by their LSE (gpu/cuda/kernels/mla_blocks.h);
// * sm_scale is the natural scale; LSE has base 2 and lies [q_len, heads];
// * any q_len and kv_len of at least 1; rows start at multiples of 16 bytes (TMA on Hopper);
//   keys and values at kv_len and beyond are not read (TMA bounds, predicated copies);
// * the Ampere kernel writes out contiguously [q_len, heads, 128], the Hopper one takes strides: we
//   ask for the contiguous form of both.
// The Hopper kernel's TMA descriptors are made on the host in the call: a captured launch would
// keep these lengths. Prefills are not captured.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "runtime/base/bf16.h"

namespace tandem::gpu::cuda {

inline constexpr int32_t kFlashPrefillQkDim = 192;  // qk_nope_head_dim + qk_rope_head_dim
inline constexpr int32_t kFlashPrefillVDim = 128;   // v_head_dim

// Strides in elements.
struct FlashMlaPrefillParams {
  const bf16* q = nullptr;  // [q_len, heads, 192]
  int32_t q_token_stride = 0;
  int32_t q_head_stride = 0;
  const bf16* k = nullptr;  // [kv_len, heads, 192]
  const bf16* v = nullptr;  // [kv_len, heads, 128]
  int32_t kv_token_stride = 0;
  int32_t kv_head_stride = 0;
  bf16* out = nullptr;   // [q_len, heads, 128]
  float* lse = nullptr;  // [q_len, heads]
  int32_t q_len = 0;
  int32_t kv_len = 0;
  int32_t num_attention_heads = 0;
  bool causal = false;
  float softmax_scale = 0.0f;
};

void launch_flash_mla_prefill_hopper(const FlashMlaPrefillParams& params, cudaStream_t stream);
void launch_flash_mla_prefill_ampere(const FlashMlaPrefillParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
