// MLA attention in absorbed form over latent pages, for any number of heads and any rank (equation
// 9): every head attends to the same key and value, a token's slot of its page. For decodes and,
// where nothing faster fits the shape, for prefills.
#pragma once

#include "gpu/cuda/core/mla_schedule.h"
#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

inline constexpr int32_t kMaxMlaDecodeRank = 512;

// score[u] = softmax_scale * (q_latent . c_u + q_rope . k_rope_u) over the keys u <= position of
// the token; out = sum_u softmax(score)[u] * c_u, for every token and head. Scores, softmax and
// sums in FP32; weights rounded to BF16 before they multiply values, in the sum of weights too.
// Page p, slot s of the cache: cache + (p * 64 + s) * kv_dim; c (kv_lora_rank), then k_rope.
struct MlaDecodeParams {
  MatrixView<const bf16> q_latent;  // [num_tokens, heads * kv_lora_rank], W_UK^T q_nope
  MatrixView<const bf16> q_rope;    // head h at column h * q_rope_head_stride, rope of them
  int64_t q_rope_head_stride = 0;
  const bf16* cache = nullptr;           // [num_pages, 64, kv_dim]
  MatrixView<const int32_t> page_table;  // [num_items, max_pages]
  const int32_t* positions = nullptr;    // [num_tokens]
  int32_t num_attention_heads = 0;
  int32_t kv_lora_rank = 0;      // multiple of 8, at most kMaxMlaDecodeRank
  int32_t qk_rope_head_dim = 0;  // multiple of 8
  float softmax_scale = 0.0f;

  // The schedule of build_mla_schedule with mla_rows_a_tile(heads), in device memory.
  const MlaWork* work = nullptr;
  const int32_t* num_work = nullptr;       // [1]
  const MlaTokenSplits* splits = nullptr;  // [num_tokens]
  float* partial_out = nullptr;            // [slots, rows_a_tile, kv_lora_rank]
  float* partial_lse = nullptr;            // [slots, rows_a_tile], base 2
  int32_t num_blocks = 0;  // the grid, whatever the schedule; 1 to 2 a multiprocessor

  MatrixView<bf16> out;  // [num_tokens, heads * kv_lora_rank]
};

constexpr int32_t mla_rows_a_tile(int32_t num_attention_heads) {
  return num_attention_heads > 16 ? 64 : 16;
}

// What a CTA takes. With 64 rows and kv_dim above 320 that is more than the 99 KiB of sm_86, sm_89
// and sm_120 (161 KiB at 576): a launch there would end the process.
int32_t mla_decode_shared_size_bytes(int32_t num_attention_heads, int32_t kv_dim);

// Two kernels: the pieces of work, then the sum of what was split.
void launch_mla_decode(const MlaDecodeParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
