// Bodies of skinny_linear.h. Grid (tiles of output columns, tiles of tokens, heads). A CTA's warps
// share its columns and split in_features between them, a chunk each in turn, so that together they
// read on end; their sums meet in shared memory and are added in the order of warps. The first
// weights come as far as L2 while the kernel before ends.
#pragma once

#include "gpu/cuda/kernels/reduce-inl.h"
#include "gpu/cuda/kernels/skinny_linear.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

using simt::Words4;

// Rows of the weight behind one output column: one, or gate and up.
TANDEM_HOST_DEVICE constexpr int rows_a_column(LinearOutput output) {
  return output == LinearOutput::kSwiglu ? 2 : 1;
}

inline int64_t num_columns(const SkinnyLinearParams& p) {
  return p.weight.rows / rows_a_column(p.output);
}

// `value` [, `up`] are the products of column `col`.
TANDEM_DEVICE inline void store_output(
    const SkinnyLinearParams& p, int head, int64_t token, int64_t col, float value, float up) {
  col += head * p.out_head_stride;
  switch (p.output) {
    case LinearOutput::kFloat:
      simt::row_of(p.out_float, token)[col] = value;
      break;
    case LinearOutput::kAddFloat:
      simt::row_of(p.out_float, token)[col] += value;
      break;
    case LinearOutput::kBf16:
      simt::row_of(p.out_bf16, token)[col] = simt::narrow(value);
      break;
    case LinearOutput::kSwiglu:
      simt::row_of(p.out_bf16, token)[col] = simt::narrow(simt::silu(value) * up);
      break;
  }
}

// --- up to four tokens

// How many warps of a CTA of 8 split in_features, each with a chunk of 256 columns at least.
// Decides the order of sums: a function of in_features alone.
TANDEM_HOST_DEVICE constexpr int num_split_warps(int64_t in_features) {
  return in_features >= 2048 ? 8 : in_features >= 1024 ? 4 : in_features >= 512 ? 2 : 1;
}

// A warp: kRows rows of the weight (a column's gate and up beside each other) times kTokens tokens.
// A lane multiplies 8 neighbouring columns of every row of its chunk; 2 * kRows loads of 16 bytes
// are in flight. x comes from L1, which the streamed weights leave alone.
template <int kTokens, int kRows>
struct SkinnyGemv {
  using Params = SkinnyLinearParams;
  static constexpr int kWarps = 8;
  static constexpr int kMaxThreads = kWarps * simt::kWarpSize, kMinBlocks = 2;
  static constexpr bool kWaitsItself = true;
  static constexpr int kChunk = 8 * simt::kWarpSize;
  static constexpr int kUnroll = 2;

  static simt::LaunchShape launch_shape(const Params& p) {
    const int64_t rows_a_block = kRows * (kWarps / num_split_warps(p.weight.cols));
    return {.grid_x = simt::ceil_div(p.weight.rows, rows_a_block),
            .grid_z = p.num_heads,
            .num_threads = kMaxThreads,
            .shared_size_bytes = kWarps * kTokens * kRows * int32_t{sizeof(float)}};
  }

  // Row of the weight in place `idx` of the grid's rows: gate and up rows alternate.
  static TANDEM_DEVICE int64_t weight_row(const Params& p, int64_t idx) {
    idx = simt::min_of(idx, p.weight.rows - 1);  // beyond the end: any, its result is dropped
    return p.output == LinearOutput::kSwiglu ? idx % 2 * (p.weight.rows / 2) + idx / 2 : idx;
  }

  template <typename Cta>
  static TANDEM_DEVICE void accumulate(const Cta& cta,
                                       const Params& p,
                                       int64_t row_begin,
                                       int split_idx,
                                       int num_splits,
                                       float (&sums)[kTokens][kRows]) {
    const bf16* weight = p.weight.data + cta.block_z() * p.weight_head_stride;
    const bf16* x = p.x.data + cta.block_z() * p.x_head_stride;
    const bf16* rows[kRows];
    TANDEM_UNROLL
    for (int r = 0; r < kRows; ++r)
      rows[r] = weight + weight_row(p, row_begin + r) * p.weight.row_stride;

    const auto col_at = [&](int64_t chunk, int u) {
      return chunk + u * num_splits * kChunk + 8 * cta.lane_idx();
    };
    const int64_t first_chunk = split_idx * kChunk;
    TANDEM_UNROLL
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t col = col_at(first_chunk, u);
      TANDEM_UNROLL
      for (int r = 0; r < kRows; ++r)
        if (col < p.weight.cols) cta.prefetch(rows[r] + col);
    }
    cta.wait_for_previous();
    for (int64_t chunk = first_chunk; chunk < p.weight.cols;
         chunk += kUnroll * num_splits * kChunk) {
      Words4 words[kUnroll][kRows];
      TANDEM_UNROLL
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t col = col_at(chunk, u);
        TANDEM_UNROLL
        for (int r = 0; r < kRows; ++r)
          words[u][r] = col < p.weight.cols ? cta.load16_streamed(rows[r] + col) : Words4{};
      }
      TANDEM_UNROLL
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t col = col_at(chunk, u);
        TANDEM_UNROLL
        for (int token = 0; token < kTokens; ++token) {
          const Words4 xs =
              col < p.weight.cols ? cta.load16(x + token * p.x.row_stride + col) : Words4{};
          TANDEM_UNROLL
          for (int r = 0; r < kRows; ++r) {
            float& sum = sums[token][r];
            TANDEM_UNROLL
            for (int w = 0; w < 4; ++w) {
              sum = simt::multiply_add(simt::low_of(words[u][r].w[w]), simt::low_of(xs.w[w]), sum);
              sum =
                  simt::multiply_add(simt::high_of(words[u][r].w[w]), simt::high_of(xs.w[w]), sum);
            }
          }
        }
      }
    }
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int num_splits = num_split_warps(p.weight.cols);
    const int num_groups = kWarps / num_splits;  // of kRows rows
    const int64_t block_row = cta.block_x() * num_groups * kRows;
    const int group = cta.warp_idx() / num_splits;
    float sums[kTokens][kRows] = {};
    accumulate(cta, p, block_row + group * kRows, cta.warp_idx() % num_splits, num_splits, sums);

    // [warps][tokens][rows]
    const auto partial = cta.template shared<float>(0, kWarps * kTokens * kRows);
    TANDEM_UNROLL
    for (int token = 0; token < kTokens; ++token) {
      TANDEM_UNROLL
      for (int r = 0; r < kRows; ++r) {
        const float sum = warp_sum(cta, sums[token][r]);
        if (cta.lane_idx() == 0) partial.store((cta.warp_idx() * kTokens + token) * kRows + r, sum);
      }
    }
    cta.sync();
    const auto total = [&](int row, int token) {  // row: of the CTA's
      float sum = 0.0f;
      for (int split = 0; split < num_splits; ++split) {
        const int warp = row / kRows * num_splits + split;
        sum += partial.load((warp * kTokens + token) * kRows + row % kRows);
      }
      return sum;
    };
    const int step = rows_a_column(p.output);
    const int num_cols = num_groups * kRows / step;
    for (int idx = cta.thread_idx(); idx < num_cols * kTokens; idx += kMaxThreads) {
      const int row = idx % num_cols * step;
      const int token = idx / num_cols;
      if (block_row + row >= p.weight.rows) continue;
      store_output(p, cta.block_z(), token, (block_row + row) / step, total(row, token),
                   step == 2 ? total(row + 1, token) : 0.0f);
    }
  }
};

// --- any number of tokens

// Fragment row i (0..15) of the column tile that begins at `col_begin`: with SwiGLU a tile has 8
// columns, gates in rows 0..7 and ups in rows 8..15, so that a lane holds both. Beyond the end: the
// last row, whose result is dropped.
TANDEM_HOST_DEVICE constexpr int64_t mma_weight_row(LinearOutput output,
                                                    int64_t num_weight_rows,
                                                    int64_t col_begin,
                                                    int i) {
  if (output != LinearOutput::kSwiglu) return simt::min_of(col_begin + i, num_weight_rows - 1);
  const int64_t half = num_weight_rows / 2;
  return i / 8 * half + simt::min_of(col_begin + i % 8, half - 1);
}

// A CTA: 16 rows of the weight as operand A times up to 8 * kTokenTiles tokens as operand B.
// mma's order of columns is free as long as both operands keep to it: of 32 columns lane t of a
// quad takes columns 8t..8t+7 of its rows, one load of 16 bytes from memory and no shared memory,
// for two mma steps.
template <int kTokenTiles>
struct SkinnyMma {
  using Params = SkinnyLinearParams;
  static constexpr int kMaxThreads = 512, kMinBlocks = 1;
  static constexpr bool kWaitsItself = true;
  static constexpr int kMaxWarps = kMaxThreads / simt::kWarpSize;
  static constexpr int kTokens = 8 * kTokenTiles;
  static constexpr int kTileSize = 16 * kTokens;
  static constexpr int kChunk = 64;  // columns: two loads of neighbouring 64 bytes of a row

  static constexpr TANDEM_HOST_DEVICE int columns_a_block(LinearOutput output) {
    return 16 / rows_a_column(output);
  }

  // Where rows are few, twice as many warps share them. By the weight's shape alone.
  static simt::LaunchShape launch_shape(const Params& p) {
    const int num_warps = p.weight.rows > 2048 ? kMaxWarps / 2 : kMaxWarps;
    return {.grid_x = simt::ceil_div(num_columns(p), columns_a_block(p.output)),
            .grid_y = static_cast<int32_t>(simt::ceil_div(p.x.rows, kTokens)),
            .grid_z = p.num_heads,
            .num_threads = num_warps * simt::kWarpSize,
            .shared_size_bytes = num_warps * kTileSize * int32_t{sizeof(float)}};
  }

  // Rows g and g + 8 of the weight, and the tokens' rows g of x, at the lane's columns of a chunk.
  struct Operands {
    Words4 a[2][2];            // [half of the chunk][row]
    Words4 b[2][kTokenTiles];  // [half][token tile]
  };

  template <typename Cta>
  static TANDEM_DEVICE void multiply(const Cta& cta,
                                     const Operands& operands,
                                     float (&sums)[kTokenTiles][4]) {
    TANDEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      TANDEM_UNROLL
      for (int step = 0; step < 2; ++step) {
        const Words4& upper = operands.a[half][0];
        const Words4& lower = operands.a[half][1];
        const uint32_t a[4] = {upper.w[2 * step], lower.w[2 * step], upper.w[2 * step + 1],
                               lower.w[2 * step + 1]};
        TANDEM_UNROLL
        for (int tile = 0; tile < kTokenTiles; ++tile) {
          const Words4& x = operands.b[half][tile];
          const uint32_t b[2] = {x.w[2 * step], x.w[2 * step + 1]};
          cta.mma(sums[tile], a, b);
        }
      }
    }
  }

  template <typename Cta>
  static TANDEM_DEVICE void accumulate(const Cta& cta,
                                       const Params& p,
                                       int64_t col_begin,
                                       int64_t token_begin,
                                       float (&sums)[kTokenTiles][4]) {
    const int g = cta.lane_idx() / 4;
    const int64_t lane_col = 8 * (cta.lane_idx() % 4);
    const bf16* weight = p.weight.data + cta.block_z() * p.weight_head_stride;
    const bf16* rows[2];
    TANDEM_UNROLL
    for (int i = 0; i < 2; ++i) {
      rows[i] = weight +
                mma_weight_row(p.output, p.weight.rows, col_begin, g + 8 * i) * p.weight.row_stride;
    }
    const bf16* tokens[kTokenTiles];
    TANDEM_UNROLL
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      const int64_t token = simt::min_of(token_begin + 8 * tile + g, p.x.rows - 1);
      tokens[tile] = p.x.data + cta.block_z() * p.x_head_stride + token * p.x.row_stride;
    }
    const int num_warps = cta.num_threads() / simt::kWarpSize;
    const auto load = [&](int64_t chunk, Operands& operands) {
      TANDEM_UNROLL
      for (int half = 0; half < 2; ++half) {
        const int64_t col = chunk + 32 * half + lane_col;
        const bool inside = col < p.weight.cols;
        TANDEM_UNROLL
        for (int i = 0; i < 2; ++i)
          operands.a[half][i] = inside ? cta.load16_streamed(rows[i] + col) : Words4{};
        TANDEM_UNROLL
        for (int tile = 0; tile < kTokenTiles; ++tile)
          operands.b[half][tile] = inside ? cta.load16(tokens[tile] + col) : Words4{};
      }
    };
    // Two chunks in flight. A chunk beyond the end is zeros, and adds nothing.
    const int64_t stride = int64_t{num_warps} * kChunk;
    const int64_t first_chunk = int64_t{cta.warp_idx()} * kChunk;
    TANDEM_UNROLL
    for (int half = 0; half < 4; ++half) {
      const int64_t col = first_chunk + half / 2 * stride + half % 2 * 32 + lane_col;
      TANDEM_UNROLL
      for (int i = 0; i < 2; ++i)
        if (col < p.weight.cols) cta.prefetch(rows[i] + col);
    }
    cta.wait_for_previous();
    for (int64_t chunk = first_chunk; chunk < p.weight.cols; chunk += 2 * stride) {
      Operands first;
      Operands second;
      load(chunk, first);
      load(chunk + stride, second);
      multiply(cta, first, sums);
      multiply(cta, second, sums);
    }
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int block_cols = columns_a_block(p.output);
    const int64_t col_begin = cta.block_x() * block_cols;
    const int64_t token_begin = int64_t{cta.block_y()} * kTokens;
    const int num_warps = cta.num_threads() / simt::kWarpSize;
    float sums[kTokenTiles][4] = {};
    accumulate(cta, p, col_begin, token_begin, sums);

    // [warps][16 rows][tokens]
    const auto partial = cta.template shared<float>(0, num_warps * kTileSize);
    const int g = cta.lane_idx() / 4;
    const int t = cta.lane_idx() % 4;
    TANDEM_UNROLL
    for (int tile = 0; tile < kTokenTiles; ++tile) {
      TANDEM_UNROLL
      for (int idx = 0; idx < 4; ++idx) {
        const int row = g + idx / 2 * 8;
        partial.store(cta.warp_idx() * kTileSize + row * kTokens + 8 * tile + 2 * t + idx % 2,
                      sums[tile][idx]);
      }
    }
    cta.sync();
    const auto total = [&](int row, int token) {
      float sum = 0.0f;
      for (int warp = 0; warp < num_warps; ++warp)
        sum += partial.load(warp * kTileSize + row * kTokens + token);
      return sum;
    };
    const int64_t num_cols = p.weight.rows / rows_a_column(p.output);
    for (int idx = cta.thread_idx(); idx < block_cols * kTokens; idx += cta.num_threads()) {
      const int col = idx % block_cols;
      const int token = idx / block_cols;
      if (col_begin + col >= num_cols || token_begin + token >= p.x.rows) continue;
      store_output(p, cta.block_z(), token_begin + token, col_begin + col, total(col, token),
                   p.output == LinearOutput::kSwiglu ? total(col + 8, token) : 0.0f);
    }
  }
};

}  // namespace tandem::gpu::cuda
