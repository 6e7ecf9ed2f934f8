// Absorbed MLA attention over latent pages with FlashInfer's kernels: decodes, several query tokens
// a sequence, short prefills (equation 9 between W_UK and W_UV).
//
//   out[t, h, :] = sum_u p[t, h, u] c_u,  p = softmax_u(softmax_scale * (q_latent[t, h] . c_u +
//                                                       q_rope[t, h] . k_rope_u)),  u <= position
//
// What FlashInfer 0.7.2 (attention/mla.cuh, mla_hopper.cuh) assumes, and we therefore keep to:
// * widths 512 and 64; BF16; rows of queries are (token, head) pairs, 64 a tile, so that
//   num_attention_heads must divide 64 (its causal bound of a tile floors a division by the heads);
// * queries are the last q_len tokens of kv_len keys (right-aligned causal mask);
// * sm_scale is the natural scale, the kernel multiplies by log2(e);
// * latent and rope part may be strided views of one array as long as every row starts at 16 bytes:
//   our page row [c | k_rope] of 576 values is read in place;
// * a row that sees no key of its range (the first tokens of a tile, in a late range) writes zeros
//   and an LSE of -inf, which weigh nothing in the merge;
// * keys at kv_len and beyond are never loaded (zero-filled), so that unwritten slots are harmless;
// * partial results are BF16, their LSE has base 2; the kernel merges them behind a grid-wide sync,
//   hence the cooperative launch with one block a multiprocessor. Stream capture is allowed.
// The split over the multiprocessors comes from our own MlaPlan (gpu/cuda/core/mla_plan.h).
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/cuda/core/mla_plan.h"
#include "runtime/base/bf16.h"

namespace tandem::gpu::cuda {

inline constexpr int32_t kFlashMlaLatentDim = 512;  // kv_lora_rank
inline constexpr int32_t kFlashMlaRopeDim = 64;     // qk_rope_head_dim

// Strides in elements.
struct FlashMlaDecodeParams {
  const bf16* q_latent = nullptr;  // [num_tokens, heads, 512] = W_UK^T q_nope
  int32_t q_latent_token_stride = 0;
  int32_t q_latent_head_stride = 0;
  const bf16* q_rope = nullptr;  // [num_tokens, heads, 64]
  int32_t q_rope_token_stride = 0;
  int32_t q_rope_head_stride = 0;
  const bf16* kv_cache = nullptr;     // [num_pages, 64, 576]
  const int32_t* page_ids = nullptr;  // of all sequences; MlaPlanArrays::kv_page_begin points in
  bf16* out = nullptr;                // [num_tokens, heads, 512]
  int32_t out_token_stride = 0;
  int32_t out_head_stride = 0;
  bf16* partial_out = nullptr;   // [max_partial_rows(num_blocks), 512]
  float* partial_lse = nullptr;  // [max_partial_rows(num_blocks)]
  MlaPlanArrays<const int32_t> plan;
  int32_t num_blocks = 0;  // as planned: at most the device's multiprocessors
  int32_t num_attention_heads = 0;
  float softmax_scale = 0.0f;
};

// The Hopper kernel (wgmma; only sm_90a holds it) and the one of Ampere and every other later card.
void launch_flash_mla_decode_hopper(const FlashMlaDecodeParams& params, cudaStream_t stream);
void launch_flash_mla_decode_ampere(const FlashMlaDecodeParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
