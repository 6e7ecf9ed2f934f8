// Bodies of mla_decode.h. A CTA of 8 warps walks through its pieces of work; of one it keeps the
// queries in shared memory and takes 32 keys at a time, the next 32 on their way meanwhile:
//   scores   S [rows, 32] = Q K^T: a warp has 16 rows and 8 or 16 keys
//   softmax  a row's neighbours share it: new maximum, weights P, the factor for what was summed
//   sums     O [rows, rank] += P C: a warp has all rows and 8 * kDimTiles dimensions, in registers
#pragma once

#include "gpu/cuda/kernels/mla_decode.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

inline constexpr int kMlaWarps = 8;
inline constexpr int kMlaKeys = 32;
inline constexpr int kMlaPageSize = 64;

// Places in shared memory, in bytes. Rows of BF16 are an odd number of 16 bytes long, so that eight
// neighbouring rows lie in different banks.
struct MlaLayout {
  int32_t width;        // of a query or key, padded with zeros to whole mma steps
  int32_t stride;       // elements
  int32_t keys_offset;  // two stages
  int32_t keys_size_bytes;
  int32_t scores_offset;
  int32_t weights_offset;
  int32_t factors_offset;
  int32_t size_bytes;
};
inline constexpr int kMlaScoreStride = kMlaKeys + 4;
inline constexpr int kMlaWeightStride = kMlaKeys + 8;

TANDEM_HOST_DEVICE constexpr MlaLayout mla_layout(int32_t kv_dim, int32_t num_rows) {
  MlaLayout layout{};
  layout.width = (kv_dim + 31) / 32 * 32;
  layout.stride = layout.width + 8;
  layout.keys_offset = num_rows * layout.stride * 2;
  layout.keys_size_bytes = kMlaKeys * layout.stride * 2;
  layout.scores_offset = layout.keys_offset + 2 * layout.keys_size_bytes;
  layout.weights_offset = layout.scores_offset + num_rows * kMlaScoreStride * 4;
  layout.factors_offset = layout.weights_offset + num_rows * kMlaWeightStride * 2;
  layout.size_bytes = layout.factors_offset + num_rows * 4;
  return layout;
}

// Element of the page table and of a page that holds key `key_idx`.
struct KeyPlace {
  int32_t page_idx;
  int32_t slot;
};
TANDEM_HOST_DEVICE constexpr KeyPlace place_of_key(int32_t key_idx) {
  return {key_idx / kMlaPageSize, key_idx % kMlaPageSize};
}

template <int kRowTiles, int kDimTiles>
struct MlaDecode {
  using Params = MlaDecodeParams;
  static constexpr int kMaxThreads = kMlaWarps * simt::kWarpSize, kMinBlocks = 1;
  static constexpr int kRows = 16 * kRowTiles;
  static constexpr int kThreadsARow = kMaxThreads / kRows;
  static constexpr int kKeysAThread = kMlaKeys / kThreadsARow;
  // Scores: warps by row tiles and groups of keys; with one row tile four of the warps rest.
  static constexpr int kKeyGroups = kRowTiles == 1 ? 4 : kMlaWarps / kRowTiles;
  static constexpr int kKeyTilesAWarp = kMlaKeys / 8 / kKeyGroups;
  static_assert(kKeysAThread >= 1 && kKeyTilesAWarp >= 1 && kThreadsARow <= simt::kWarpSize);

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = p.num_blocks,
            .num_threads = kMaxThreads,
            .shared_size_bytes = mla_layout(p.kv_lora_rank + p.qk_rope_head_dim, kRows).size_bytes};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int32_t num_work = *p.num_work;
    for (int64_t idx = cta.block_x(); idx < num_work; idx += cta.grid_x()) {
      run_work(cta, p, p.work[idx]);
      cta.sync();  // shared memory is free again
    }
  }

  // Zeros in rows that the tile has not and in columns behind kv_dim.
  template <typename Cta, typename Shared>
  static TANDEM_DEVICE void load_queries(const Cta& cta,
                                         const Params& p,
                                         const MlaWork& work,
                                         const MlaLayout& layout,
                                         Shared queries) {
    const int pieces = layout.width / 8;
    for (int idx = cta.thread_idx(); idx < kRows * pieces; idx += kMaxThreads) {
      const int row = idx / pieces;
      const int col = idx % pieces * 8;
      const int32_t token = (work.row_begin + row) / p.num_attention_heads;
      const int32_t head = (work.row_begin + row) % p.num_attention_heads;
      simt::Words4 words{};
      if (row < work.num_rows) {
        if (col < p.kv_lora_rank) {
          words =
              cta.load16(simt::row_of(p.q_latent, token) + int64_t{head} * p.kv_lora_rank + col);
        } else if (col < p.kv_lora_rank + p.qk_rope_head_dim) {
          words = cta.load16(simt::row_of(p.q_rope, token) + head * p.q_rope_head_stride + col -
                             p.kv_lora_rank);
        }
      }
      queries.store16(row * layout.stride + col, words);
    }
  }

  // Keys [key_begin, key_begin + 32), zeros from key_end on: a slot behind may hold anything.
  template <typename Cta, typename Shared>
  static TANDEM_DEVICE void begin_keys(const Cta& cta,
                                       const Params& p,
                                       const MlaWork& work,
                                       const MlaLayout& layout,
                                       int32_t key_begin,
                                       Shared keys) {
    const int32_t kv_dim = p.kv_lora_rank + p.qk_rope_head_dim;
    const int32_t* pages = simt::row_of(p.page_table, work.item_idx);
    const int pieces = layout.width / 8;
    for (int idx = cta.thread_idx(); idx < kMlaKeys * pieces; idx += kMaxThreads) {
      const int key = idx / pieces;
      const int col = idx % pieces * 8;
      const bool inside = key_begin + key < work.key_end && col < kv_dim;
      const bf16* source = p.cache;
      if (inside) {
        const KeyPlace place = place_of_key(key_begin + key);
        source += (int64_t{pages[place.page_idx]} * kMlaPageSize + place.slot) * kv_dim + col;
      }
      cta.copy16_async(keys, key * layout.stride + col, source, inside ? 16 : 0);
    }
    cta.commit_copies();
  }

  template <typename Cta, typename Bf16s, typename Floats>
  static TANDEM_DEVICE void compute_scores(
      const Cta& cta, const MlaLayout& layout, Bf16s queries, Bf16s keys, Floats scores) {
    const int row_tile = cta.warp_idx() % kRowTiles;
    const int key_group = cta.warp_idx() / kRowTiles;
    if (key_group >= kKeyGroups) return;
    const int lane = cta.lane_idx();
    float sums[kKeyTilesAWarp][4] = {};
    for (int col = 0; col < layout.width; col += 32) {
      uint32_t a[2][4];
      TANDEM_UNROLL
      for (int step = 0; step < 2; ++step) {
        cta.template load_matrices<false>(
            queries, (16 * row_tile + lane % 16) * layout.stride + col + 16 * step + lane / 16 * 8,
            a[step]);
      }
      TANDEM_UNROLL
      for (int tile = 0; tile < kKeyTilesAWarp; ++tile) {
        const int key = 8 * (key_group * kKeyTilesAWarp + tile) + lane % 8;
        uint32_t b[4];
        cta.template load_matrices<false>(keys, key * layout.stride + col + lane / 8 * 8, b);
        const uint32_t first[2] = {b[0], b[1]};
        const uint32_t second[2] = {b[2], b[3]};
        cta.mma(sums[tile], a[0], first);
        cta.mma(sums[tile], a[1], second);
      }
    }
    TANDEM_UNROLL
    for (int tile = 0; tile < kKeyTilesAWarp; ++tile) {
      TANDEM_UNROLL
      for (int idx = 0; idx < 4; ++idx) {
        const int row = 16 * row_tile + lane / 4 + idx / 2 * 8;
        const int key = 8 * (key_group * kKeyTilesAWarp + tile) + 2 * (lane % 4) + idx % 2;
        scores.store(row * kMlaScoreStride + key, sums[tile][idx]);
      }
    }
  }

  // A row's state, the same in all threads of the row. Exponents are to base 2.
  struct RowState {
    float maximum = -INFINITY;
    float sum = 0.0f;
  };

  template <typename Cta, typename Floats, typename Bf16s>
  static TANDEM_DEVICE void soften(const Cta& cta,
                                   float scale,
                                   int32_t num_visible,
                                   Floats scores,
                                   Bf16s weights,
                                   Floats factors,
                                   RowState& state) {
    const int row = cta.thread_idx() / kThreadsARow;
    const int first_key = cta.thread_idx() % kThreadsARow * kKeysAThread;
    float score[kKeysAThread];
    float maximum = state.maximum;
    TANDEM_UNROLL
    for (int idx = 0; idx < kKeysAThread; ++idx) {
      const float value = scores.load(row * kMlaScoreStride + first_key + idx) * scale;
      score[idx] = first_key + idx < num_visible ? value : -INFINITY;
      maximum = fmaxf(maximum, score[idx]);
    }
    TANDEM_UNROLL
    for (int mask = kThreadsARow / 2; mask > 0; mask /= 2)
      maximum = fmaxf(maximum, cta.shuffle_xor(maximum, mask));
    // Nothing visible yet: any finite number will do in place of -inf - -inf.
    const float base = maximum == -INFINITY ? 0.0f : maximum;
    float sum = 0.0f;
    TANDEM_UNROLL
    for (int idx = 0; idx < kKeysAThread; ++idx) {
      const bf16 weight = simt::narrow(exp2f(score[idx] - base));
      weights.store(row * kMlaWeightStride + first_key + idx, weight);
      sum += simt::widen(weight);
    }
    TANDEM_UNROLL
    for (int mask = kThreadsARow / 2; mask > 0; mask /= 2) sum += cta.shuffle_xor(sum, mask);
    const float factor = exp2f(state.maximum - base);
    if (first_key == 0) factors.store(row, factor);
    state.maximum = maximum;
    state.sum = state.sum * factor + sum;
  }

  template <typename Cta, typename Bf16s, typename Floats>
  static TANDEM_DEVICE void add_values(const Cta& cta,
                                       const Params& p,
                                       const MlaLayout& layout,
                                       Bf16s keys,
                                       Bf16s weights,
                                       Floats factors,
                                       float (&sums)[kRowTiles][kDimTiles][4]) {
    const int lane = cta.lane_idx();
    TANDEM_UNROLL
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
      const float upper = factors.load(16 * row_tile + lane / 4);
      const float lower = factors.load(16 * row_tile + lane / 4 + 8);
      uint32_t a[2][4];
      TANDEM_UNROLL
      for (int step = 0; step < 2; ++step) {
        cta.template load_matrices<false>(
            weights, (16 * row_tile + lane % 16) * kMlaWeightStride + 16 * step + lane / 16 * 8,
            a[step]);
      }
      TANDEM_UNROLL
      for (int tile = 0; tile < kDimTiles; ++tile) {
        const int dim = 8 * (cta.warp_idx() * kDimTiles + tile);
        if (dim >= p.kv_lora_rank) continue;  // the same for the whole warp
        float(&sum)[4] = sums[row_tile][tile];
        sum[0] *= upper;
        sum[1] *= upper;
        sum[2] *= lower;
        sum[3] *= lower;
        uint32_t b[4];
        cta.template load_matrices<true>(keys, lane * layout.stride + dim, b);
        const uint32_t first[2] = {b[0], b[1]};
        const uint32_t second[2] = {b[2], b[3]};
        cta.mma(sum, a[0], first);
        cta.mma(sum, a[1], second);
      }
    }
  }

  template <typename Cta>
  static TANDEM_DEVICE void run_work(Cta& cta, const Params& p, const MlaWork& work) {
    const MlaLayout layout = mla_layout(p.kv_lora_rank + p.qk_rope_head_dim, kRows);
    const auto queries = cta.template shared<bf16>(0, kRows * layout.stride);
    const auto keys_of = [&](int stage) {
      return cta.template shared<bf16>(layout.keys_offset + stage * layout.keys_size_bytes,
                                       kMlaKeys * layout.stride);
    };
    const auto scores = cta.template shared<float>(layout.scores_offset, kRows * kMlaScoreStride);
    const auto weights = cta.template shared<bf16>(layout.weights_offset, kRows * kMlaWeightStride);
    const auto factors = cta.template shared<float>(layout.factors_offset, kRows);

    const int row = cta.thread_idx() / kThreadsARow;
    const int32_t num_keys_of_row =
        row < work.num_rows ? p.positions[(work.row_begin + row) / p.num_attention_heads] + 1 : 0;
    const float scale = p.softmax_scale * 1.44269504f;  // log2(e)
    RowState state;
    float sums[kRowTiles][kDimTiles][4] = {};

    load_queries(cta, p, work, layout, queries);
    begin_keys(cta, p, work, layout, work.key_begin, keys_of(0));
    int stage = 0;
    for (int32_t key = work.key_begin; key < work.key_end; key += kMlaKeys) {
      cta.template wait_copies<0>();
      cta.sync();  // these keys are there, and nobody reads the last ones any more
      if (key + kMlaKeys < work.key_end)
        begin_keys(cta, p, work, layout, key + kMlaKeys, keys_of(1 - stage));
      compute_scores(cta, layout, queries, keys_of(stage), scores);
      cta.sync();
      soften(cta, scale, num_keys_of_row - key, scores, weights, factors, state);
      cta.sync();
      add_values(cta, p, layout, keys_of(stage), weights, factors, sums);
      stage = 1 - stage;
    }
    cta.template wait_copies<0>();  // of a piece without keys
    cta.sync();
    finish(cta, p, work, state, factors, sums);
  }

  // Divides by the sum of weights. A row that saw no key leaves zeros and a logarithm of -inf.
  template <typename Cta, typename Floats>
  static TANDEM_DEVICE void finish(const Cta& cta,
                                   const Params& p,
                                   const MlaWork& work,
                                   const RowState& state,
                                   Floats factors,
                                   float (&sums)[kRowTiles][kDimTiles][4]) {
    const bool any_key = state.sum > 0.0f;
    if (cta.thread_idx() % kThreadsARow == 0) {
      const int row = cta.thread_idx() / kThreadsARow;
      factors.store(row, any_key ? 1.0f / state.sum : 0.0f);
      if (work.slot >= 0 && row < work.num_rows) {
        p.partial_lse[int64_t{work.slot} * kRows + row] =
            any_key ? state.maximum + log2f(state.sum) : -INFINITY;
      }
    }
    cta.sync();
    const int lane = cta.lane_idx();
    TANDEM_UNROLL
    for (int row_tile = 0; row_tile < kRowTiles; ++row_tile) {
      TANDEM_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int row = 16 * row_tile + lane / 4 + 8 * half;
        if (row >= work.num_rows) continue;
        const float factor = factors.load(row);
        const int32_t token = (work.row_begin + row) / p.num_attention_heads;
        const int32_t head = (work.row_begin + row) % p.num_attention_heads;
        bf16* out = simt::row_of(p.out, token) + int64_t{head} * p.kv_lora_rank;
        TANDEM_UNROLL
        for (int tile = 0; tile < kDimTiles; ++tile) {
          const int dim = 8 * (cta.warp_idx() * kDimTiles + tile) + 2 * (lane % 4);
          if (dim >= p.kv_lora_rank) continue;
          const float even = sums[row_tile][tile][2 * half] * factor;
          const float odd = sums[row_tile][tile][2 * half + 1] * factor;
          if (work.slot >= 0) {
            float* partial =
                p.partial_out + (int64_t{work.slot} * kRows + row) * p.kv_lora_rank + dim;
            partial[0] = even;
            partial[1] = odd;
          } else {
            out[dim] = simt::narrow(even);
            out[dim + 1] = simt::narrow(odd);
          }
        }
      }
    }
  }
};

// out = sum_s 2^(lse_s - max lse) partial_s / sum_s 2^(lse_s - max lse), in the order of splits. A
// CTA a row, for the tokens that were split.
struct MlaCombine {
  using Params = MlaDecodeParams;
  static constexpr int kMaxThreads = 128, kMinBlocks = 1;

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = p.out.rows * p.num_attention_heads,
            .num_threads = kMaxThreads,
            .shared_size_bytes = kMaxSplits * int32_t{sizeof(float)}};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const auto row = static_cast<int32_t>(cta.block_x());
    const int32_t token = row / p.num_attention_heads;
    const MlaTokenSplits splits = p.splits[token];
    if (splits.num_splits == 0) return;
    const int32_t rows_a_tile = p.num_attention_heads > 16 ? 64 : 16;
    const int32_t row_of_item = row - splits.item_row_begin;
    const int64_t first_slot =
        splits.slot_begin + int64_t{row_of_item / rows_a_tile} * splits.num_splits;
    const auto partial_row = [&](int split) {
      return (first_slot + split) * rows_a_tile + row_of_item % rows_a_tile;
    };
    float maximum = -INFINITY;
    for (int split = 0; split < splits.num_splits; ++split)
      maximum = fmaxf(maximum, p.partial_lse[partial_row(split)]);
    const auto weights = cta.template shared<float>(0, kMaxSplits);
    for (int split = cta.thread_idx(); split < splits.num_splits; split += kMaxThreads)
      weights.store(split, exp2f(p.partial_lse[partial_row(split)] - maximum));
    cta.sync();
    float total = 0.0f;
    for (int split = 0; split < splits.num_splits; ++split) total += weights.load(split);
    bf16* out = simt::row_of(p.out, token) + int64_t{row % p.num_attention_heads} * p.kv_lora_rank;
    for (int dim = cta.thread_idx(); dim < p.kv_lora_rank; dim += kMaxThreads) {
      float sum = 0.0f;
      for (int split = 0; split < splits.num_splits; ++split) {
        sum = simt::multiply_add(weights.load(split),
                                 p.partial_out[partial_row(split) * p.kv_lora_rank + dim], sum);
      }
      out[dim] = simt::narrow(sum / total);
    }
  }
};

}  // namespace tandem::gpu::cuda
