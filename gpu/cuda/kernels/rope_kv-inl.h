// Body of rope_kv.h. Grid (tokens, 1 + groups of heads): CTA y = 0 appends to the cache, the others
// rotate kHeadsPerBlock heads each. Every CTA computes the token's rotations for itself.
#pragma once

#include "gpu/cuda/kernels/reduce-inl.h"
#include "gpu/cuda/kernels/rope_kv.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

struct RopeAndAppendKv {
  using Params = RopeKvParams;
  static constexpr int kMaxThreads = 128, kMinBlocks = 1;
  static constexpr int kHeadsPerBlock = 16;
  static constexpr int kMaxPairs = kMaxRopeHeadDim / 2;
  static constexpr int kWarps = kMaxThreads / simt::kWarpSize;
  // Shared memory: cosines, sines, partial sums.
  static constexpr int kPartialOffset = 2 * kMaxPairs * int{sizeof(float)};

  static simt::LaunchShape launch_shape(const Params& p) {
    return {
        .grid_x = p.kv_a.rows,
        .grid_y = 1 + static_cast<int32_t>(simt::ceil_div(p.num_attention_heads, kHeadsPerBlock)),
        .num_threads = kMaxThreads,
        .shared_size_bytes = kPartialOffset + kWarps * int32_t{sizeof(float)}};
  }

  template <typename Shared>
  static TANDEM_DEVICE void rotate(
      float even, float odd, Shared cosines, Shared sines, int pair, bf16* out) {
    const float cosine = cosines.load(pair);
    const float sine = sines.load(pair);
    out[0] = simt::narrow(even * cosine - odd * sine);
    out[1] = simt::narrow(odd * cosine + even * sine);
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t token = cta.block_x();
    const int64_t slot_idx = p.kv_slots[token];
    if (slot_idx < 0) return;  // the whole CTA
    const auto cosines = cta.template shared<float>(0, kMaxPairs);
    const auto sines = cta.template shared<float>(kMaxPairs * int{sizeof(float)}, kMaxPairs);
    const int num_pairs = p.qk_rope_head_dim / 2;
    for (int pair = cta.thread_idx(); pair < num_pairs; pair += kMaxThreads) {
      const float angle = static_cast<float>(p.positions[token]) * p.frequencies[pair];
      cosines.store(pair, cosf(angle) * p.magnitude);
      sines.store(pair, sinf(angle) * p.magnitude);
    }
    cta.sync();
    if (cta.block_y() > 0) {
      rotate_queries(cta, p, cosines, sines);
      return;
    }
    const float* latent = simt::row_of(p.kv_a, token);
    bf16* slot = p.cache + slot_idx * (p.kv_lora_rank + p.qk_rope_head_dim);
    float squares = 0.0f;
    for (int col = cta.thread_idx(); col < p.kv_lora_rank; col += kMaxThreads)
      squares = simt::multiply_add(latent[col], latent[col], squares);
    const float sum = cta_sum(cta, squares, cta.template shared<float>(kPartialOffset, kWarps));
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.kv_lora_rank) + p.eps);
    for (int col = cta.thread_idx(); col < p.kv_lora_rank; col += kMaxThreads)
      slot[col] = simt::narrow(simt::widen(p.kv_a_layernorm[col]) * (latent[col] * factor));
    for (int pair = cta.thread_idx(); pair < num_pairs; pair += kMaxThreads) {
      const int col = p.kv_lora_rank + 2 * pair;
      rotate(latent[col], latent[col + 1], cosines, sines, pair, slot + col);
    }
  }

  template <typename Cta, typename Shared>
  static TANDEM_DEVICE void rotate_queries(Cta& cta,
                                           const Params& p,
                                           Shared cosines,
                                           Shared sines) {
    const int num_pairs = p.qk_rope_head_dim / 2;
    const int head_begin = (cta.block_y() - 1) * kHeadsPerBlock;
    const int num_heads =
        static_cast<int>(simt::min_of(kHeadsPerBlock, p.num_attention_heads - head_begin));
    bf16* row = simt::row_of(p.q, cta.block_x());
    for (int idx = cta.thread_idx(); idx < num_heads * num_pairs; idx += kMaxThreads) {
      const int pair = idx % num_pairs;
      bf16* values =
          row + int64_t{head_begin + idx / num_pairs} * (p.qk_nope_head_dim + p.qk_rope_head_dim) +
          p.qk_nope_head_dim + 2 * pair;
      rotate(simt::widen(values[0]), simt::widen(values[1]), cosines, sines, pair, values);
    }
  }
};

}  // namespace tandem::gpu::cuda
