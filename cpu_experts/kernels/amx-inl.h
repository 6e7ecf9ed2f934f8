// Dot products of packed rows with BF16 activations on AMX tiles.
//
// One TDPBF16PS is one group: 16 tokens x 16 rows x 32 columns. A is a tile of tokens, a row each,
// read where the records stand; the codes of 16 rows are B: a vector of the layout decodes to four
// rows of it, two columns of every row side by side. The group's sums are multiplied by the rows'
// scales when they leave the tile, in FP32. Order of every sum: the tile's within a group, groups
// ascending, one fused multiply-add each.
//
// What limits it stands beside the products: decoding, and loads and stores of tiles and of sums
// (bench/amx). So a few groups of a few row blocks are taken at a time: their records, codes, sums
// and totals stay in L1. Sixteen groups of 32 row blocks, gathered for it, took 1.1 to 1.4 times as
// long.
#pragma once

#include "cpu_experts/kernels/bf16-inl.h"

namespace tandem::cpu_experts {
namespace {

constexpr int kTileRows = 16;
constexpr int kTileStrideBytes = 64;
static_assert((kTileRows - 1) * sizeof(Bf16Group) <= kReadBehindBytes);
// At a time, each with sums in a tile of its own: their products take 64 cycles, more than the 52
// of one product's latency.
constexpr int64_t kSliceGroups = 4;

// Tiles 0 to 3 are sums, 4 and 5 A, 6 and 7 B. Of fewer than 16 tokens A and sums have as many
// rows; of more, the last A goes on behind them, and its sums there are nobody's.
struct alignas(64) TileConfig {
  uint8_t palette = 1;
  uint8_t reserved[15] = {};
  uint16_t row_size_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  uint8_t rows[16] = {};

  explicit TileConfig(int32_t num_tokens) {
    for (int tile = 0; tile < 8; ++tile) {
      rows[tile] = static_cast<uint8_t>(tile < 6 ? at_most(kTileRows, num_tokens) : kTileRows);
    }
  }
};
static_assert(sizeof(TileConfig) == 64);

// Before tiles are loaded: g++ 12's loads do not say that they read memory, so that what is stored
// there could come later or, if nothing else reads it, never.
[[gnu::always_inline]] inline void finish_stores(const void* object) {
  asm volatile("" : : "r"(object) : "memory");
}

// Some groups of a row block as B tiles.
struct alignas(64) WeightTiles {
  uint16_t tile[kSliceGroups][kTileRows][kGroupCols];
  float scales[kSliceGroups][kBlockRows];
};

// Of one group, [token][row], on their way out of a tile.
struct alignas(64) TileSums {
  float row[kTileRows][kBlockRows];
};

// Meanwhile asks for what lies ahead_bytes further on.
inline void decode(const uint8_t* blocks,
                   int64_t num_groups,
                   int64_t ahead_bytes,
                   WeightTiles& out) {
  const __m512i table = code_table();
  for (int64_t group = 0; group < num_groups; ++group) {
    const uint8_t* block = blocks + group / 2 * kBlockSizeBytes;
    const uint8_t* vectors = block + kScalesSizeBytes + group % 2 * 4 * kVectorSizeBytes;
    if (group % 2 == 0) prefetch(block + ahead_bytes);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      prefetch(vectors + v * kVectorSizeBytes + ahead_bytes);
      __m512i codes = _mm512_loadu_si512(vectors + v * kVectorSizeBytes);
#pragma GCC unroll 4
      for (int pair = 0; pair < 4; ++pair, codes = _mm512_srli_epi16(codes, 4)) {
        _mm512_store_si512(out.tile[group][4 * v + pair], _mm512_permutexvar_epi16(codes, table));
      }
    }
    _mm512_store_ps(out.scales[group], load_scales(block + group % 2 * 32));
  }
}

// total[16 tokens] += sums times the rows' scales
[[gnu::always_inline]] inline void add_scaled(const TileSums& sums,
                                              const float* row_scales,
                                              __m512* total) {
  const __m512 scales = _mm512_load_ps(row_scales);
#pragma GCC unroll 16
  for (int token = 0; token < kTileRows; ++token) {
    total[token] = _mm512_fmadd_ps(_mm512_load_ps(sums.row[token]), scales, total[token]);
  }
}

// totals[16 tokens] += A B over the groups; tokens' records lie step_records apart from group to
// group.
inline void multiply(const Bf16Group* tokens,
                     int64_t step_records,
                     const WeightTiles& weights,
                     int64_t num_groups,
                     TileSums& sums,
                     float (*totals)[kBlockRows]) {
  finish_stores(&weights);
// Tile numbers are part of an instruction: they have to be literals.
#define TANDEM_PRODUCT(group, a, b)                                         \
  if (group < num_groups) {                                                 \
    _tile_zero(group);                                                      \
    _tile_loadd(a, tokens[group * step_records].columns, kTileStrideBytes); \
    _tile_loadd(b, weights.tile[group], kTileStrideBytes);                  \
    _tile_dpbf16ps(group, a, b);                                            \
  }
#define TANDEM_SUMS(group)                           \
  if (group < num_groups) {                          \
    _tile_stored(group, sums.row, kTileStrideBytes); \
    add_scaled(sums, weights.scales[group], total);  \
  }
  TANDEM_PRODUCT(0, 4, 6)
  TANDEM_PRODUCT(1, 5, 7)
  TANDEM_PRODUCT(2, 4, 6)
  TANDEM_PRODUCT(3, 5, 7)
  __m512 total[kTileRows];
#pragma GCC unroll 16
  for (int token = 0; token < kTileRows; ++token) total[token] = _mm512_load_ps(totals[token]);
  TANDEM_SUMS(0)
  TANDEM_SUMS(1)
  TANDEM_SUMS(2)
  TANDEM_SUMS(3)
#undef TANDEM_PRODUCT
#undef TANDEM_SUMS
#pragma GCC unroll 16
  for (int token = 0; token < kTileRows; ++token) _mm512_store_ps(totals[token], total[token]);
}

// The core of moe-inl.h for tiles: that of BF16 pairs with a product of its own.
struct AmxCore : Bf16Core {
  static constexpr TileLimits kTile = {.row_blocks = 2};  // one at a time: 15 to 25 % slower

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  Records<Bf16Group> x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    const TileConfig config(num_tokens);
    finish_stores(&config);
    _tile_loadconfig(&config);
    const auto num_tiles = static_cast<size_t>((num_tokens + kTileRows - 1) / kTileRows);
    for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
      std::memset(totals[row_block], 0, sizeof(float[kTileRows][kBlockRows]) * num_tiles);
    }
    TileSums sums{};  // where tiles have fewer rows, the others stay zero
    WeightTiles tiles;
    const int64_t num_groups = 2 * num_col_blocks;
    const int64_t row_block_size_bytes = num_col_blocks * kBlockSizeBytes;
    for (int64_t first_group = 0; first_group < num_groups; first_group += kSliceGroups) {
      const int64_t num_slice_groups = at_most(kSliceGroups, num_groups - first_group);
      const uint8_t* slice = weights + first_group / 2 * kBlockSizeBytes;
      const Bf16Group* tokens = x.first + first_group * x.num_tokens;
      // What comes next: further columns, at their end the row blocks behind these.
      int64_t ahead_bytes = kPrefetchBlocks * kBlockSizeBytes;
      if (first_group / 2 + kPrefetchBlocks >= num_col_blocks) {
        ahead_bytes += (num_row_blocks - 1) * row_block_size_bytes;
      }
      for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
        decode(slice + row_block * row_block_size_bytes, num_slice_groups, ahead_bytes, tiles);
        for (int32_t token = 0; token < num_tokens; token += kTileRows) {
          multiply(tokens + token, x.num_tokens, tiles, num_slice_groups, sums,
                   totals[row_block] + token);
        }
      }
    }
    _tile_release();
  }
};

}  // namespace
}  // namespace tandem::cpu_experts
