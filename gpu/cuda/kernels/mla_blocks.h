// What stands around the expanded form of attention (equation 8), which takes the keys of a long
// context in blocks: latents out of their pages before, the blocks' results together behind.
#pragma once

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

// Of the keys kv_begin .. kv_begin + latents.rows - 1 of one sequence:
//   latents[u, :]                                         = c of the key
//   keys[u, head * key_head_dim + rope_begin + 0 : rope]  = k_rope of the key, for every head
// Rows of all arrays start at multiples of 16 bytes, widths are multiples of 8.
struct UnpackLatentsParams {
  const bf16* cache;        // [num_pages * 64, kv_lora_rank + qk_rope_head_dim]
  const int32_t* page_ids;  // of the sequence
  int32_t kv_begin;
  MatrixView<bf16> latents;  // [num_keys, kv_lora_rank]
  MatrixView<bf16> keys;     // [num_keys, heads * key_head_dim], other columns left alone
  int32_t num_attention_heads;
  int32_t key_head_dim;
  int32_t rope_begin;
  int32_t qk_rope_head_dim;
};
void launch_unpack_latents(const UnpackLatentsParams& params, cudaStream_t stream);

// Attention over the keys so far and over another block, by their log2 sums of exponentials:
//   sum = (2^sum_lse * sum + 2^block_lse * block_out) / (2^sum_lse + 2^block_lse)
//   sum_lse = log2(2^sum_lse + 2^block_lse)
// The first block starts the sum; with out.data the sum is written there too, rounded to BF16.
struct MergeAttentionParams {
  MatrixView<const bf16> block_out;  // [num_tokens * heads, v_head_dim]
  const float* block_lse;            // [num_tokens * heads]
  MatrixView<float> sum;             // as block_out
  float* sum_lse;                    // as block_lse
  bool is_first;
  MatrixView<bf16> out;  // [num_tokens, heads * v_head_dim], or no data
  int32_t num_attention_heads;
};
void launch_merge_attention(const MergeAttentionParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
