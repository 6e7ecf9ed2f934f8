// Bodies of mla_blocks.h.
#pragma once

#include "gpu/cuda/kernels/mla_blocks.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

// A CTA a key, 16 bytes a thread and turn.
struct UnpackLatents {
  using Params = UnpackLatentsParams;
  static constexpr int kMaxThreads = 128, kMinBlocks = 1;
  static constexpr int kPageTokens = 64;
  static constexpr int kWord = sizeof(simt::Words4) / sizeof(bf16);
  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = p.latents.rows, .num_threads = kMaxThreads};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t key = cta.block_x();
    const int64_t position = p.kv_begin + key;
    const int64_t slot_idx =
        int64_t{p.page_ids[position / kPageTokens]} * kPageTokens + position % kPageTokens;
    const int32_t rank = static_cast<int32_t>(p.latents.cols);
    const bf16* slot = p.cache + slot_idx * (rank + p.qk_rope_head_dim);
    bf16* latent = simt::row_of(p.latents, key);
    for (int32_t col = cta.thread_idx() * kWord; col < rank; col += kMaxThreads * kWord)
      cta.store16(latent + col, cta.load16(slot + col));
    bf16* keys = simt::row_of(p.keys, key) + p.rope_begin;
    const int32_t words = p.qk_rope_head_dim / kWord;
    for (int32_t idx = cta.thread_idx(); idx < p.num_attention_heads * words; idx += kMaxThreads) {
      const int32_t head = idx / words;
      const int32_t col = idx % words * kWord;
      cta.store16(keys + int64_t{head} * p.key_head_dim + col, cta.load16(slot + rank + col));
    }
  }
};

// A CTA a row of a token and head.
struct MergeAttention {
  using Params = MergeAttentionParams;
  static constexpr int kMaxThreads = 128, kMinBlocks = 1;
  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = p.block_out.rows, .num_threads = kMaxThreads};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t row = cta.block_x();
    const float block_lse = p.block_lse[row];
    float sum_lse = 0.0f;
    float sum_weight = 0.0f;
    float block_weight = 1.0f;
    if (p.is_first) {
      sum_lse = block_lse;
    } else {
      const float old_lse = p.sum_lse[row];
      const float largest = old_lse > block_lse ? old_lse : block_lse;
      sum_weight = exp2f(old_lse - largest);
      block_weight = exp2f(block_lse - largest);
      const float total = sum_weight + block_weight;
      sum_lse = largest + log2f(total);
      sum_weight /= total;
      block_weight /= total;
    }
    cta.sync();  // all threads have read sum_lse
    if (cta.thread_idx() == 0) p.sum_lse[row] = sum_lse;
    const bf16* block_out = simt::row_of(p.block_out, row);
    float* sum = simt::row_of(p.sum, row);
    for (int64_t col = cta.thread_idx(); col < p.sum.cols; col += kMaxThreads) {
      float value = block_weight * simt::widen(block_out[col]);
      if (!p.is_first) value = simt::multiply_add(sum_weight, sum[col], value);
      sum[col] = value;
      if (p.out.data != nullptr) {
        bf16* out = simt::row_of(p.out, row / p.num_attention_heads) +
                    row % p.num_attention_heads * p.sum.cols;
        out[col] = simt::narrow(value);
      }
    }
  }
};

}  // namespace tandem::gpu::cuda
