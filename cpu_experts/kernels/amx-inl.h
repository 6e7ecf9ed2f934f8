// Dot products of packed rows with BF16 activations on AMX tiles.
//
// B tiles are weights, scales included (amx_weights-inl.h), so that the sums of 16 tokens by 16
// rows stay in their tile over all groups. With codes as B tiles the sums of every group would have
// to leave it for the scales, which takes the tiles' unit as long as a second product and needs
// loads, stores and multiplications besides: 1.3 to 1.5 times as long with more than 16 tokens.
//
// Decoding stands between the products and takes its time beside them, a block of two groups ahead:
// what is stored has to have arrived in L1 before a tile loads it, and two blocks ahead crowd out
// what else is there.
//
// Order of every sum, whatever num_tokens: groups ascending, in a group its terms, inside a product
// as TDPBF16PS adds.
#pragma once

#include "cpu_experts/kernels/amx_weights-inl.h"
#include "cpu_experts/kernels/bf16-inl.h"

namespace tandem::cpu_experts {
namespace {

constexpr int kMaxTiles = kMaxPassTokens / kTileRows;
static_assert((kTileRows - 1) * sizeof(Bf16Group) <= kReadBehindBytes);

// A product of a group: a term of a row block with a tile of tokens, and what has to be loaded
// first.
struct Product {
  int row_block;
  int term;
  int tile;
  int a, b;  // the tiles that hold them
  bool loads_a, loads_b;
};

// How the eight tiles are used for row blocks side by side and tiles of tokens: sums
// [row block][tile of tokens], then A, then B.
template <int kTerms, int kRowBlocks, int kTiles>
struct TileUse {
  static constexpr int kNumSums = kRowBlocks * kTiles;
  static constexpr int kNumB = kTerms * kRowBlocks;
  static constexpr int kNumProducts = kNumB * kTiles;
  // Either there is an A for every tile of tokens, or, for one row block, one for the last and one
  // for all others, or one for all.
  static constexpr bool kKeepsA = kNumSums + kTiles + 2 <= 8;
  static constexpr bool kKeepsB = !kKeepsA && kRowBlocks == 1;
  static_assert(kKeepsA || kNumSums + (kKeepsB ? 4 : 2) <= 8);

  static constexpr int sums(int row_block, int tile) { return row_block * kTiles + tile; }
  static constexpr Product product(int idx) {
    if (kKeepsB) {  // A by A
      const int tile = idx / kNumB;
      const int a = kNumSums + (tile == kTiles - 1 ? 1 : 0);
      return made_of(idx % kNumB, tile, a, kNumSums + 2 + idx % kNumB, idx % kNumB == 0, tile == 0);
    }
    const int which = idx / kTiles;  // B by B
    const int step = idx % kTiles;
    if (kKeepsA) {
      return made_of(which, step, kNumSums + step, kNumSums + kTiles + which % 2, which == 0,
                     step == 0);
    }
    // To and fro: at the turn A stays.
    return made_of(which, which % 2 == 0 ? step : kTiles - 1 - step, kNumSums, kNumSums + 1,
                   which == 0 || step != 0, step == 0);
  }

 private:
  static constexpr Product made_of(int which, int tile, int a, int b, bool loads_a, bool loads_b) {
    return {which % kRowBlocks, which / kRowBlocks, tile, a, b, loads_a, loads_b};
  }
};

// Of fewer than 16 last tokens A and sums have as many rows, and products take less; but where one
// A is for all, its last goes on behind them, and its sums there are nobody's.
template <typename Use>
TileConfig tile_config(int32_t num_tokens) {
  TileConfig config;
  if (!Use::kKeepsA && !Use::kKeepsB) return config;
  const Product last = Use::product(Use::kNumProducts - 1);
  const auto num_last = static_cast<uint8_t>(num_tokens - last.tile * kTileRows);
  config.rows[last.a] = num_last;
  for (int row_block = 0; row_block <= last.row_block; ++row_block) {
    config.rows[Use::sums(row_block, last.tile)] = num_last;
  }
  return config;
}

// Asks for the first lines of a page of memory when a block ahead reaches it: what follows the CPU
// asks for by itself, up to the page's end. With two streams 4 to 8 % faster than line by line,
// whose requests take the places that loads from L2 need; with one, slower.
inline void prefetch_page_ahead(const uint8_t* block) {
  constexpr uintptr_t kPageSizeBytes = 4096;
  constexpr int kLines = 4;
  const uint8_t* ahead = block + kPrefetchBlocks * kBlockSizeBytes;
  const uintptr_t in_page = reinterpret_cast<uintptr_t>(ahead) % kPageSizeBytes;
  if (in_page >= kBlockSizeBytes) return;
  for (int line = 0; line < kLines; ++line) prefetch(ahead - in_page + line * 64);
}

// Products kFirst .. kEnd - 1 of a group.
template <typename Use, int kFirst, int kEnd, typename Tiles, size_t kRowBlocks>
[[gnu::always_inline]] inline void add_products(const Bf16Group* tokens,
                                                const Tiles (&weights)[kRowBlocks]) {
  if constexpr (kFirst < kEnd) {
    constexpr Product kProduct = Use::product(kFirst);
    if constexpr (kProduct.loads_b) {
      load_tile<kProduct.b>(weights[kProduct.row_block].term[kProduct.term]);
    }
    if constexpr (kProduct.loads_a) {
      load_tile<kProduct.a>(tokens + kProduct.tile * kTileRows, kTileRowSizeBytes);
    }
    add_product<Use::sums(kProduct.row_block, kProduct.tile), kProduct.a, kProduct.b>();
    add_products<Use, kFirst + 1, kEnd>(tokens, weights);
  }
}

// Adds a group's products and decodes that of the next block beside them, a vector at a time.
template <typename Use, int kStep = 0, typename Weights, typename Tiles, size_t kRowBlocks>
[[gnu::always_inline]] inline void add_group(const Bf16Group* tokens,
                                             const Tiles (&tiles)[kRowBlocks],
                                             const Weights& weights,
                                             const typename Weights::Group (&packed)[kRowBlocks],
                                             Tiles (&next)[kRowBlocks]) {
  constexpr int kSteps = 4 * kRowBlocks;
  if constexpr (kStep < kSteps) {
    add_products<Use, (kStep * Use::kNumProducts + kSteps - 1) / kSteps,
                 ((kStep + 1) * Use::kNumProducts + kSteps - 1) / kSteps>(tokens, tiles);
    if constexpr (kRowBlocks == 1) prefetch_ahead(packed[0].vectors + kStep * kVectorSizeBytes);
    weights.decode(packed[kStep / 4], kStep % 4, next[kStep / 4]);
    add_group<Use, kStep + 1>(tokens, tiles, weights, packed, next);
  }
}

template <int kNumSums, int kIdx = 0>
[[gnu::always_inline]] inline void zero_sums() {
  if constexpr (kIdx < kNumSums) {
    zero_tile<kIdx>();
    zero_sums<kNumSums, kIdx + 1>();
  }
}

template <int kTiles, int kNumSums, int kIdx = 0>
[[gnu::always_inline]] inline void store_sums(RowBlockTotals* totals) {
  if constexpr (kIdx < kNumSums) {
    store_tile<kIdx>(totals[kIdx / kTiles] + kIdx % kTiles * kTileRows, kTileRowSizeBytes);
    store_sums<kTiles, kNumSums, kIdx + 1>(totals);
  }
}

// Rows of a block that have a scale of kScaleLimit or more, or none that is a number, in either
// group.
inline uint32_t rows_beyond_limit(const uint8_t* block) {
  const __m512i magnitudes = _mm512_and_si512(_mm512_loadu_si512(block), _mm512_set1_epi16(0x7fff));
  constexpr auto kLimit = static_cast<int16_t>(__builtin_bit_cast(uint32_t, kScaleLimit) >> 16);
  return _mm512_cmpge_epu16_mask(magnitudes, _mm512_set1_epi16(kLimit));
}

// What such rows come to.
[[gnu::noinline, gnu::cold]] inline void poison_rows(uint32_t rows_of_groups,
                                                     RowBlockTotals& totals) {
  for (auto& token : totals) {
    for (int row = 0; row < kBlockRows; ++row) {
      if ((rows_of_groups >> row & 0x10001u) != 0) token[row] = __builtin_nanf("");
    }
  }
}

// num_row_blocks: a multiple of kRowBlocks.
template <typename Weights, int kRowBlocks, int kTiles>
void dot_tiles(const uint8_t* packed_rows,
               int64_t num_row_blocks,
               int64_t num_col_blocks,
               Records<Bf16Group> x,
               int32_t num_tokens,
               RowBlockTotals* totals) {
  using Use = TileUse<Weights::kTerms, kRowBlocks, kTiles>;
  using Group = typename Weights::Group;
  configure_tiles(tile_config<Use>(num_tokens));
  const Weights weights;
  const int64_t row_block_size_bytes = num_col_blocks * kBlockSizeBytes;
  WeightTiles<Weights::kTerms> tiles[2][2][kRowBlocks];  // [block at hand, the next][group]
  const auto packed_group = [&](const uint8_t* block, int group, Group* packed) {
    for (int idx = 0; idx < kRowBlocks; ++idx) {
      packed[idx] = Group(block + idx * row_block_size_bytes, group);
    }
  };
  for (int group = 0; group < 2; ++group) {
    Group packed[kRowBlocks];
    packed_group(packed_rows, group, packed);
    for (int idx = 0; idx < kRowBlocks; ++idx) {
      for (int vector = 0; vector < 4; ++vector) {
        weights.decode(packed[idx], vector, tiles[0][group][idx]);
      }
    }
  }
  int at_hand = 0;
  for (int64_t row_block = 0; row_block < num_row_blocks; row_block += kRowBlocks) {
    const uint8_t* block = packed_rows + row_block * row_block_size_bytes;
    const Bf16Group* tokens = x.first;
    uint32_t poisoned[kRowBlocks] = {};
    zero_sums<Use::kNumSums>();
    for (int64_t left = num_col_blocks - 1; left >= 0; --left, at_hand ^= 1) {
      for (int idx = 0; idx < kRowBlocks; ++idx) {
        poisoned[idx] |= rows_beyond_limit(block + idx * row_block_size_bytes);
      }
      // Behind the last one the next row blocks', if there are any, else anything.
      block += kBlockSizeBytes;
      if (left == 0) {
        const bool is_last = row_block + kRowBlocks == num_row_blocks;
        block = is_last ? packed_rows : block + (kRowBlocks - 1) * row_block_size_bytes;
      }
      if constexpr (kRowBlocks == 1) {
        prefetch_ahead(block);
      } else {
        for (int idx = 0; idx < kRowBlocks; ++idx) {
          prefetch_page_ahead(block + idx * row_block_size_bytes);
        }
      }
#pragma GCC unroll 2
      for (int group = 0; group < 2; ++group, tokens += x.num_tokens) {
        Group packed[kRowBlocks];
        packed_group(block, group, packed);
        add_group<Use>(tokens, tiles[at_hand][group], weights, packed, tiles[at_hand ^ 1][group]);
      }
    }
    store_sums<kTiles, Use::kNumSums>(totals + row_block);
    for (int idx = 0; idx < kRowBlocks; ++idx) {
      if (poisoned[idx] != 0) [[unlikely]]
        poison_rows(poisoned[idx], totals[row_block + idx]);
    }
  }
}

// kTiles = 1 .. kMaxTiles as a run-time choice.
template <typename Weights, int kTiles = kMaxTiles>
void dot_tiles_any(const uint8_t* packed_rows,
                   int64_t num_row_blocks,
                   int64_t num_col_blocks,
                   Records<Bf16Group> x,
                   int32_t num_tokens,
                   RowBlockTotals* totals) {
  if constexpr (kTiles > 1) {
    if (num_tokens <= (kTiles - 1) * kTileRows) {
      return dot_tiles_any<Weights, kTiles - 1>(packed_rows, num_row_blocks, num_col_blocks, x,
                                                num_tokens, totals);
    }
  }
  if constexpr (kTiles <= 3) {
    // Two side by side share A, and the CPU's prefetcher has two streams to follow.
    const int64_t num_paired = num_row_blocks / 2 * 2;
    if (num_paired != 0) {
      dot_tiles<Weights, 2, kTiles>(packed_rows, num_paired, num_col_blocks, x, num_tokens, totals);
    }
    packed_rows += num_paired * num_col_blocks * kBlockSizeBytes;
    totals += num_paired;
    num_row_blocks -= num_paired;
  }
  if (num_row_blocks != 0) {
    dot_tiles<Weights, 1, kTiles>(packed_rows, num_row_blocks, num_col_blocks, x, num_tokens,
                                  totals);
  }
}

// The core of moe-inl.h for tiles: that of BF16 pairs with a product of its own.
template <typename Weights>
struct AmxCore : Bf16Core {
  static constexpr TileLimits kTile = {.row_blocks = 2};

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  Records<Bf16Group> x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    dot_tiles_any<Weights>(weights, num_row_blocks, num_col_blocks, x, num_tokens, totals);
    release_tiles();
  }
};

}  // namespace
}  // namespace tandem::cpu_experts
