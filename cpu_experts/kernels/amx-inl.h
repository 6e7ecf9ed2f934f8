// Dot products of packed rows with BF16 activations on AMX tiles.
//
// One TDPBF16PS is one group: 16 tokens x 16 rows x 32 columns. A tile of tokens is A (a row per
// token), the codes of 16 rows are B: a vector of the layout decodes to four rows of it, two
// columns of every row side by side. The group's sums are multiplied by the rows' scales when they
// leave the tile, in FP32, so that decoding is one shift, one permutation and one store a B row,
// shared by all token tiles. With four of those 50 instructions go with every product, under its 16
// cycles (bench/amx counts them). Order of every sum: the tile's within a group, groups ascending,
// one fused multiply-add each.
#pragma once

#include "cpu_experts/kernels/bf16-inl.h"

namespace tandem::cpu_experts {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileSizeBytes = 1024;
constexpr int kTileStrideBytes = 64;
constexpr int kTokenTiles = kMaxPassTokens / kTileRows;
constexpr int64_t kDepthGroups = 16;  // groups at a time: B of a row block stays in L1, A in L2

struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t reserved[15] = {};
  uint16_t row_size_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
static_assert(sizeof(TileConfig) == 64);

// The tokens' values of some groups as A tiles: [token tile][group][16 tokens][32 columns]; rows
// behind the last token are zero.
struct alignas(64) TokenTiles {
  uint16_t tile[kTokenTiles][kDepthGroups][kTileRows][kGroupCols];
};

inline void gather_tokens(Records<Bf16Group> x,
                          int32_t num_tokens,
                          int64_t first_group,
                          int64_t num_groups,
                          TokenTiles& out) {
  for (int32_t token = 0; token < (num_tokens + 15) / 16 * 16; ++token) {
    for (int64_t group = 0; group < num_groups; ++group) {
      __m512i values = _mm512_setzero_si512();
      if (token < num_tokens) {
        values = _mm512_loadu_si512(x.first[(first_group + group) * x.num_tokens + token].columns);
      }
      _mm512_store_si512(out.tile[token / 16][group][token % 16], values);
    }
  }
}

// Codes and scales of one row block's groups as B tiles.
struct alignas(64) WeightTiles {
  uint16_t tile[kDepthGroups][kTileRows][kGroupCols];
  float scales[kDepthGroups][kBlockRows];
};

// Asks for `next`, what is decoded after it.
inline void decode(const uint8_t* weights,
                   const uint8_t* next,
                   int64_t num_groups,
                   WeightTiles& out) {
  const __m512i table = code_table();
  for (int64_t group = 0; group < num_groups; ++group) {
    const uint8_t* block = weights + group / 2 * kBlockSizeBytes;
    const uint8_t* vectors = block + kScalesSizeBytes + group % 2 * 4 * kVectorSizeBytes;
    if (group % 2 == 0) prefetch(block + (next - weights));
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      prefetch(vectors + (next - weights) + v * kVectorSizeBytes);
      __m512i codes = _mm512_loadu_si512(vectors + v * kVectorSizeBytes);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair, codes = _mm512_srli_epi16(codes, 4)) {
        _mm512_store_si512(out.tile[group][4 * v + pair], _mm512_permutexvar_epi16(codes, table));
      }
    }
    _mm512_store_ps(out.scales[group], load_scales(block + group % 2 * 32));
  }
}

// Four groups in flight: their products take 64 cycles, more than the 52 of one product's latency.
inline void multiply_groups(const uint16_t (*tokens)[kTileRows][kGroupCols],
                            const WeightTiles& weights,
                            int64_t group,
                            int64_t num_groups,
                            float (*sums)[kTileRows][kBlockRows]) {
// Tile numbers are part of an instruction: they have to be literals.
#define TANDEM_PRODUCT(sum, a, b)                                \
  if (sum < num_groups) {                                        \
    _tile_zero(sum);                                             \
    _tile_loadd(a, tokens[group + sum], kTileStrideBytes);       \
    _tile_loadd(b, weights.tile[group + sum], kTileStrideBytes); \
    _tile_dpbf16ps(sum, a, b);                                   \
  }
#define TANDEM_STORE(sum) \
  if (sum < num_groups) _tile_stored(sum, sums[sum], kTileStrideBytes)
  TANDEM_PRODUCT(0, 4, 6)
  TANDEM_PRODUCT(1, 5, 7)
  TANDEM_PRODUCT(2, 4, 6)
  TANDEM_PRODUCT(3, 5, 7)
  TANDEM_STORE(0);
  TANDEM_STORE(1);
  TANDEM_STORE(2);
  TANDEM_STORE(3);
#undef TANDEM_PRODUCT
#undef TANDEM_STORE
}

// totals[16 tokens] += A B over the groups at hand
inline void multiply(const uint16_t (*tokens)[kTileRows][kGroupCols],
                     const WeightTiles& weights,
                     int64_t num_groups,
                     float (*totals)[kBlockRows]) {
  alignas(64) float sums[4][kTileRows][kBlockRows];
  __m512 total[kTileRows];
#pragma GCC unroll 16
  for (int token = 0; token < kTileRows; ++token) total[token] = _mm512_load_ps(totals[token]);
  for (int64_t group = 0; group < num_groups; group += 4) {
    const int64_t num_flying = at_most<int64_t>(4, num_groups - group);
    multiply_groups(tokens, weights, group, num_flying, sums);
    for (int64_t idx = 0; idx < num_flying; ++idx) {
      const __m512 scales = _mm512_load_ps(weights.scales[group + idx]);
#pragma GCC unroll 16
      for (int token = 0; token < kTileRows; ++token) {
        total[token] = _mm512_fmadd_ps(_mm512_load_ps(sums[idx][token]), scales, total[token]);
      }
    }
  }
#pragma GCC unroll 16
  for (int token = 0; token < kTileRows; ++token) _mm512_store_ps(totals[token], total[token]);
}

// The core of moe-inl.h for tiles. Many row blocks a call, since the tokens are gathered for each.
struct AmxCore {
  using Record = Bf16Group;
  static constexpr int64_t kRowBlocks = 32;
  static constexpr TileLimits kTile = {};

  static void store_group(const float* values, Bf16Group& group) {
    Bf16Core::store_group(values, group);
  }

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  Records<Bf16Group> x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    const TileConfig config;
    _tile_loadconfig(&config);
    const auto num_tiles = static_cast<size_t>((num_tokens + kTileRows - 1) / kTileRows);
    for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
      std::memset(totals[row_block], 0, sizeof(float[kTileRows][kBlockRows]) * num_tiles);
    }
    TokenTiles tokens;
    WeightTiles tiles;
    const int64_t num_groups = 2 * num_col_blocks;
    const int64_t row_block_size_bytes = num_col_blocks * kBlockSizeBytes;
    for (int64_t first_group = 0; first_group < num_groups; first_group += kDepthGroups) {
      const int64_t num_depth = at_most(kDepthGroups, num_groups - first_group);
      gather_tokens(x, num_tokens, first_group, num_depth, tokens);
      const uint8_t* slice = weights + first_group / 2 * kBlockSizeBytes;
      for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
        const uint8_t* rows = slice + row_block * row_block_size_bytes;
        const uint8_t* next = rows + row_block_size_bytes;
        if (row_block + 1 == num_row_blocks) {
          const bool is_last = first_group + num_depth == num_groups;
          next = is_last ? weights + num_row_blocks * row_block_size_bytes
                         : slice + num_depth / 2 * kBlockSizeBytes;
        }
        decode(rows, next, num_depth, tiles);
        for (int32_t token = 0; token < num_tokens; token += kTileRows) {
          multiply(tokens.tile[token / kTileRows], tiles, num_depth, &totals[row_block][token]);
        }
      }
    }
    _tile_release();
  }
};

}  // namespace
}  // namespace tandem::cpu_experts
