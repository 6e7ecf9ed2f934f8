// Bodies of int4_experts.h.
//
// Both products work on pairs of row blocks: gate and up of the same 16 columns of the activation,
// or 32 neighbouring columns of an expert's output. Grid (groups of pairs of row blocks, tiles); a
// CTA beyond the number of tiles, which only the device knows, ends at once.
#pragma once

#include "gpu/cuda/kernels/int4_experts.h"
#include "gpu/cuda/kernels/int4_tile-inl.h"
#include "gpu/cuda/kernels/reduce-inl.h"

namespace tandem::gpu::cuda {

inline int64_t num_pairs_of(const Int4ExpertsParams& p) {
  return p.expert_ids.rows * p.expert_ids.cols;
}

TANDEM_DEVICE inline bool has_token(const Int4ExpertsParams& p, int64_t row) {
  return p.kv_slots == nullptr || p.kv_slots[row] >= 0;
}

// Counting sort of the pairs whose expert is here, and the list of tiles; one CTA. The order of an
// expert's pairs is left to chance: a column of an mma does not depend on its place.
struct SortPairs {
  using Params = Int4ExpertsParams;
  static constexpr int kMaxThreads = 1024, kMinBlocks = 1;
  static constexpr int kMaxExperts = kMaxThreads;
  static constexpr int kWarps = kMaxThreads / simt::kWarpSize;

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = num_pairs_of(p) > 0 ? 1 : 0,
            .num_threads = kMaxThreads,
            .shared_size_bytes = (kMaxExperts + 2 * kWarps) * int32_t{sizeof(int32_t)}};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const auto next = cta.template shared<int32_t>(0, kMaxExperts);  // counts, then places
    const auto pair_totals = cta.template shared<int32_t>(kMaxExperts * 4, kWarps);
    const auto tile_totals = cta.template shared<int32_t>((kMaxExperts + kWarps) * 4, kWarps);
    const int32_t num_pairs = static_cast<int32_t>(p.expert_ids.rows * p.expert_ids.cols);
    // -1: nothing to compute.
    const auto expert_of = [&](int32_t pair) {
      const int64_t token = pair / p.expert_ids.cols;
      if (!has_token(p, token)) return -1;
      const int32_t expert = simt::row_of(p.expert_ids, token)[pair % p.expert_ids.cols];
      return p.experts[expert] != nullptr ? expert : -1;
    };
    next.store(cta.thread_idx(), 0);
    cta.sync();
    for (int32_t pair = cta.thread_idx(); pair < num_pairs; pair += kMaxThreads) {
      const int32_t expert = expert_of(pair);
      if (expert >= 0) next.atomic_add(expert, 1);
    }
    cta.sync();
    const int32_t expert = cta.thread_idx();
    const int32_t count = next.load(expert);
    const auto num_tiles = static_cast<int32_t>(simt::ceil_div(count, p.tokens_a_tile));
    const int32_t pair_end = cta_inclusive_sum(cta, count, pair_totals);
    const int32_t tile_end = cta_inclusive_sum(cta, num_tiles, tile_totals);
    const int32_t pair_begin = pair_end - count;
    next.store(expert, pair_begin);
    for (int32_t tile = 0; tile < num_tiles; ++tile) {
      const int32_t begin = tile * p.tokens_a_tile;
      p.tiles[tile_end - num_tiles + tile] = {
          expert, pair_begin + begin,
          static_cast<int32_t>(simt::min_of(p.tokens_a_tile, count - begin))};
    }
    if (expert == kMaxExperts - 1) *p.num_tiles = tile_end;
    cta.sync();
    for (int32_t pair = cta.thread_idx(); pair < num_pairs; pair += kMaxThreads) {
      const int32_t pair_expert = expert_of(pair);
      if (pair_expert >= 0) p.sorted_pairs[next.atomic_add(pair_expert, 1)] = pair;
    }
  }
};

// One product of a tile.
enum class ExpertStage { kGateUp, kDown };

template <ExpertStage kStage>
struct ExpertProduct {
  static TANDEM_HOST_DEVICE int64_t in_features(const Int4ExpertsParams& p) {
    return kStage == ExpertStage::kGateUp ? p.hidden.cols : p.moe_intermediate_size;
  }
  static TANDEM_HOST_DEVICE int64_t num_block_pairs(const Int4ExpertsParams& p) {
    return kStage == ExpertStage::kGateUp ? p.moe_intermediate_size / 16 : p.hidden.cols / 32;
  }
  // First block of row block 2 * pair_idx.
  static TANDEM_DEVICE const std::byte* blocks(const Int4ExpertsParams& p,
                                               const ExpertTile& tile,
                                               int64_t pair_idx) {
    const std::byte* weights = p.experts[tile.expert_idx];
    if (kStage == ExpertStage::kDown)
      weights += row_blocks_size_bytes(p.moe_intermediate_size / 8, p.hidden.cols);
    return weights + row_blocks_size_bytes(2 * pair_idx, in_features(p));
  }
  // Input of the tile's token `idx`.
  static TANDEM_DEVICE const bf16* input(const Int4ExpertsParams& p,
                                         const ExpertTile& tile,
                                         int idx) {
    const int64_t place = tile.pair_begin + idx;
    if (kStage == ExpertStage::kDown) return p.activated + place * p.moe_intermediate_size;
    return simt::row_of(p.hidden, p.sorted_pairs[place] / p.expert_ids.cols);
  }
  // Rows `row` and row + 1 (even) of both blocks for the tile's token `idx`.
  static TANDEM_DEVICE void store(const Int4ExpertsParams& p,
                                  const ExpertTile& tile,
                                  int idx,
                                  int64_t pair_idx,
                                  int row,
                                  const float (&first)[2],
                                  const float (&second)[2]) {
    const int64_t place = tile.pair_begin + idx;
    if (kStage == ExpertStage::kGateUp) {
      bf16* out = p.activated + place * p.moe_intermediate_size + 16 * pair_idx + row;
      out[0] = simt::narrow(simt::silu(first[0]) * second[0]);
      out[1] = simt::narrow(simt::silu(first[1]) * second[1]);
    } else {
      bf16* out = p.expert_out + p.sorted_pairs[place] * p.hidden.cols + 32 * pair_idx + row;
      out[0] = simt::narrow(first[0]);
      out[1] = simt::narrow(first[1]);
      out[16] = simt::narrow(second[0]);
      out[17] = simt::narrow(second[1]);
    }
  }
};

// Tiles of 8 tokens. A CTA has one pair of row blocks, whose column blocks its warps take in turn;
// the warps' sums are added in shared memory in the order of warps.
template <ExpertStage kStage>
struct Int4Few {
  using Params = Int4ExpertsParams;
  using Product = ExpertProduct<kStage>;
  static constexpr int kWarps = 8;
  static constexpr int kMaxThreads = kWarps * simt::kWarpSize, kMinBlocks = 2;
  static constexpr int kTokens = 8;
  static constexpr int kTileSize = 2 * 16 * kTokens;

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = Product::num_block_pairs(p),
            .grid_y = static_cast<int32_t>(
                max_expert_tiles(num_pairs_of(p), p.n_routed_experts, ExpertPath::kFew)),
            .num_threads = kMaxThreads,
            .shared_size_bytes = kWarps * kTileSize * int32_t{sizeof(float)}};
  }

  struct Piece {  // of one column block
    Int4Lane weights[2];
    simt::Words4 x[2];
  };

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    if (cta.block_y() >= *p.num_tiles) return;
    const ExpertTile tile = p.tiles[cta.block_y()];
    const int g = cta.lane_idx() / 4;
    const int t = cta.lane_idx() % 4;
    const int64_t in_features = Product::in_features(p);
    const int64_t num_blocks = num_col_blocks(in_features);
    const std::byte* blocks = Product::blocks(p, tile, cta.block_x());
    const bool has_token = g < tile.num_pairs;
    const bf16* x = has_token ? Product::input(p, tile, g) : nullptr;

    const auto load = [&](int64_t block, Piece& piece) {
      const bool inside = block < num_blocks;
      TANDEM_UNROLL
      for (int half = 0; half < 2; ++half) {
        piece.weights[half] =
            inside ? load_int4(cta, blocks + (half * num_blocks + block) * layout::kBlockSizeBytes)
                   : Int4Lane{};
      }
      TANDEM_UNROLL
      for (int group = 0; group < 2; ++group) {
        const int64_t col = block * layout::kBlockCols + group * layout::kGroupCols + 8 * t;
        piece.x[group] = has_token && col < in_features ? cta.load16(x + col) : simt::Words4{};
      }
    };
    float sums[2][4] = {};
    const auto multiply = [&](const Piece& piece) {
      TANDEM_UNROLL
      for (int group = 0; group < 2; ++group) {
        const Int4Operand operand = order_as_codes(piece.x[group]);
        TANDEM_UNROLL
        for (int half = 0; half < 2; ++half)
          multiply_group(cta, piece.weights[half], group, operand, sums[half]);
      }
    };
    // Two blocks of either row block in flight.
    for (int64_t block = cta.warp_idx(); block < num_blocks; block += 2 * kWarps) {
      Piece first;
      Piece second;
      load(block, first);
      load(block + kWarps, second);
      multiply(first);
      multiply(second);
    }
    add_up(cta, p, tile, sums);
  }

  template <typename Cta>
  static TANDEM_DEVICE void add_up(Cta& cta,
                                   const Params& p,
                                   const ExpertTile& tile,
                                   const float (&sums)[2][4]) {
    const int g = cta.lane_idx() / 4;
    const int t = cta.lane_idx() % 4;
    // [warps][blocks][16 rows][tokens]
    const auto partial = cta.template shared<float>(0, kWarps * kTileSize);
    TANDEM_UNROLL
    for (int half = 0; half < 2; ++half) {
      TANDEM_UNROLL
      for (int idx = 0; idx < 4; ++idx) {
        const int row = 2 * g + idx / 2;
        const int token = 2 * t + idx % 2;
        partial.store(cta.warp_idx() * kTileSize + (half * 16 + row) * kTokens + token,
                      sums[half][idx]);
      }
    }
    cta.sync();
    const auto total = [&](int half, int row, int token) {
      float sum = 0.0f;
      for (int warp = 0; warp < kWarps; ++warp)
        sum += partial.load(warp * kTileSize + (half * 16 + row) * kTokens + token);
      return sum;
    };
    const int idx = cta.thread_idx();
    if (idx >= 8 * kTokens) return;
    const int row = idx % 8 * 2;
    const int token = idx / 8;
    if (token >= tile.num_pairs) return;
    const float first[2] = {total(0, row, token), total(0, row + 1, token)};
    const float second[2] = {total(1, row, token), total(1, row + 1, token)};
    Product::store(p, tile, token, cta.block_x(), row, first, second);
  }
};

// Tiles of 64 tokens. A warp has a pair of row blocks, read straight from memory one column block
// ahead; the CTA's warps share the tile's activations, 64 columns at a time, the next on their
// way.
template <ExpertStage kStage>
struct Int4Many {
  using Params = Int4ExpertsParams;
  using Product = ExpertProduct<kStage>;
  static constexpr int kWarps = 8;
  static constexpr int kMaxThreads = kWarps * simt::kWarpSize, kMinBlocks = 1;
  static constexpr int kTokens = 64;
  static constexpr int kTokenTiles = kTokens / 8;
  static constexpr int kStride = 96;  // two rows further is the same bank, one is not
  static constexpr int kStageSize = kTokens * kStride;

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = simt::ceil_div(Product::num_block_pairs(p), kWarps),
            .grid_y = static_cast<int32_t>(
                max_expert_tiles(num_pairs_of(p), p.n_routed_experts, ExpertPath::kMany)),
            .num_threads = kMaxThreads,
            .shared_size_bytes = 2 * kStageSize * int32_t{sizeof(bf16)}};
  }

  // A thread's part of a copy: 8 columns of some tokens. Null: zeros, there is no such token.
  static constexpr int kPieces = int{layout::kBlockCols} / 8;
  static constexpr int kTokensAThread = kTokens * kPieces / kMaxThreads;
  struct Sources {
    const bf16* rows[kTokensAThread];
  };
  static TANDEM_DEVICE int token_of(int thread_idx, int idx) {
    return thread_idx / kPieces + idx * (kMaxThreads / kPieces);
  }

  template <typename Cta, typename Shared>
  static TANDEM_DEVICE void begin_activations(
      const Cta& cta, const Params& p, const Sources& sources, int64_t block, Shared target) {
    const int piece_col = cta.thread_idx() % kPieces * 8;
    const int64_t col = block * layout::kBlockCols + piece_col;
    TANDEM_UNROLL
    for (int idx = 0; idx < kTokensAThread; ++idx) {
      const bool inside = sources.rows[idx] != nullptr && col < Product::in_features(p);
      cta.copy16_async(target, token_of(cta.thread_idx(), idx) * kStride + piece_col,
                       inside ? sources.rows[idx] + col : p.hidden.data, inside ? 16 : 0);
    }
    cta.commit_copies();
  }

  template <typename Cta, typename Shared>
  static TANDEM_DEVICE void multiply(const Cta& cta,
                                     const Int4Lane (&weights)[2],
                                     Shared x,
                                     float (&sums)[2][kTokenTiles][4]) {
    const int g = cta.lane_idx() / 4;
    const int t = cta.lane_idx() % 4;
    TANDEM_UNROLL
    for (int group = 0; group < 2; ++group) {
      TANDEM_UNROLL
      for (int tile = 0; tile < kTokenTiles; ++tile) {
        const Int4Operand operand = order_as_codes(
            x.load16((8 * tile + g) * kStride + int{layout::kGroupCols} * group + 8 * t));
        TANDEM_UNROLL
        for (int half = 0; half < 2; ++half)
          multiply_group(cta, weights[half], group, operand, sums[half][tile]);
      }
    }
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    if (cta.block_y() >= *p.num_tiles) return;
    const ExpertTile tile = p.tiles[cta.block_y()];
    const int64_t num_blocks = num_col_blocks(Product::in_features(p));
    const int64_t pair_idx = cta.block_x() * kWarps + cta.warp_idx();
    const bool has_rows = pair_idx < Product::num_block_pairs(p);  // else only helps to copy
    const std::byte* blocks = Product::blocks(p, tile, has_rows ? pair_idx : 0);
    const auto stage_of = [&](int64_t block) {
      return cta.template shared<bf16>(block % 2 * kStageSize * int64_t{sizeof(bf16)}, kStageSize);
    };
    const auto load = [&](int64_t block, Int4Lane(&weights)[2]) {
      TANDEM_UNROLL
      for (int half = 0; half < 2; ++half) {
        weights[half] =
            load_int4(cta, blocks + (half * num_blocks + block) * layout::kBlockSizeBytes);
      }
    };

    Sources sources;
    TANDEM_UNROLL
    for (int idx = 0; idx < kTokensAThread; ++idx) {
      const int token = token_of(cta.thread_idx(), idx);
      sources.rows[idx] = token < tile.num_pairs ? Product::input(p, tile, token) : nullptr;
    }
    float sums[2][kTokenTiles][4] = {};
    Int4Lane weights[2];
    load(0, weights);
    begin_activations(cta, p, sources, 0, stage_of(0));
    for (int64_t block = 0; block < num_blocks; ++block) {
      cta.template wait_copies<0>();
      cta.sync();  // the block's columns are there, and the other stage is no longer read
      Int4Lane next[2] = {};
      if (block + 1 < num_blocks) {
        begin_activations(cta, p, sources, block + 1, stage_of(block + 1));
        load(block + 1, next);
      }
      if (has_rows) multiply(cta, weights, stage_of(block), sums);
      weights[0] = next[0];
      weights[1] = next[1];
    }
    if (!has_rows) return;
    const int g = cta.lane_idx() / 4;
    const int t = cta.lane_idx() % 4;
    TANDEM_UNROLL
    for (int idx = 0; idx < 2 * kTokenTiles; ++idx) {
      const int col = idx % 2;
      const int token = idx / 2 * 8 + 2 * t + col;
      if (token >= tile.num_pairs) continue;
      const float(&upper)[4] = sums[0][idx / 2];
      const float(&lower)[4] = sums[1][idx / 2];
      const float first[2] = {upper[col], upper[2 + col]};
      const float second[2] = {lower[col], lower[2 + col]};
      Product::store(p, tile, token, pair_idx, 2 * g, first, second);
    }
  }
};

// The weighted sum over a token's experts that are here.
struct CombineExperts {
  using Params = Int4ExpertsParams;
  static constexpr int kMaxThreads = 256, kMinBlocks = 1;

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = p.residual.rows,
            .grid_y = static_cast<int32_t>(simt::ceil_div(p.residual.cols, kMaxThreads)),
            .num_threads = kMaxThreads};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t token = cta.block_x();
    const int64_t col = int64_t{cta.block_y()} * kMaxThreads + cta.thread_idx();
    if (col >= p.residual.cols || !has_token(p, token)) return;
    float sum = 0.0f;
    for (int64_t rank = 0; rank < p.expert_ids.cols; ++rank) {
      if (p.experts[simt::row_of(p.expert_ids, token)[rank]] == nullptr) continue;
      const int64_t pair = token * p.expert_ids.cols + rank;
      sum = simt::multiply_add(simt::row_of(p.expert_weights, token)[rank],
                               simt::widen(p.expert_out[pair * p.hidden.cols + col]), sum);
    }
    simt::row_of(p.residual, token)[col] += sum;
  }
};

}  // namespace tandem::gpu::cuda
