// Dot products of packed rows with activations as integers, included once per instruction set.
//
// A group's sum of (code - 8) * v is an exact integer below 2^22, so it does not matter in which
// order, width or instruction set it is formed. It begins with the bits of a float, its origin, of
// which v's unit is the last bit (1.5 * 2^23 units): what stands there at the end, read as a float,
// is origin + sum, and the conversion an instruction would do is part of taking the origin away.
// The sum times s is added to the row's total times the weights' scale by one fused multiply-add,
// groups ascending. Hence the same bits for any number of tokens and on any CPU; in bytes on any
// with VNNI, and on any without, since what the integers stand for differs (simd/rows.h), but for
// the input of down on a Zen 4, whose wide columns are others (activations-inl.h).
//
// The operands of a product are the codes of one part of a vector (simd/rows.h): two columns of
// words, four of bytes. The first tile of some rows decodes them and keeps them for the tiles that
// follow: with 43 tokens that leaves a quarter of the decoding.
#pragma once

#include <type_traits>
#include <utility>

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/kernels/activations-inl.h"
#include "cpu_experts/kernels/moe-inl.h"
#include "cpu_experts/simd/rows.h"

namespace tandem::cpu_experts {
namespace {

// For a block of row blocks that are read side by side: its line of scales, and near the rows' end,
// behind which only the last row block meets what comes next, what the others go on with.
template <int kRowBlocks>
inline void prefetch_scales(const uint8_t* block,
                            int64_t row_block_size_bytes,
                            int64_t num_blocks_ahead) {
  prefetch_ahead(block);
  for (int row_block = 1; row_block < kRowBlocks; ++row_block) {
    prefetch_ahead(block + row_block * row_block_size_bytes);
    if (num_blocks_ahead > kPrefetchBlocks) continue;
    const uint8_t* next = block + (kRowBlocks - 1 + row_block) * row_block_size_bytes;
    for (int64_t line = 0; line < kBlockSizeBytes; line += 64) prefetch_ahead(next + line);
  }
}

template <typename Then, int... kIndices>
[[gnu::always_inline]] inline void call_each(const Then& then,
                                             std::integer_sequence<int, kIndices...> /*indices*/) {
  (then(std::integral_constant<int, kIndices>{}), ...);
}

// Whether a tile's sums and totals fit the registers.
template <int kRowBlocks, int kTokens>
constexpr bool kFits = kRowBlocks* kTokens <= kMostInRegisters;

// then(idx) for 0 .. kCount - 1. Written out for tiles that fit: GCC settles what can stay in
// registers from group to group before it unrolls loops.
template <bool kWrittenOut, int kCount, typename Then>
[[gnu::always_inline]] inline void for_each(const Then& then) {
  if constexpr (kWrittenOut) {
    call_each(then, std::make_integer_sequence<int, kCount>{});
  } else {
#pragma GCC unroll 16
    for (int idx = 0; idx < kCount; ++idx) then(idx);
  }
}

// Where the operands of a tile's products come from.
enum class Operands {
  kDecoded,  // the weights
  kKept,     // the weights, and they are kept: for the next tiles, and for second products
  kReread,   // what was kept
};

template <typename Group>
constexpr int kParts = 2 * static_cast<int>(sizeof(typename Group::Value));  // of a vector
// What is kept of a group of one row block: a vector a part, in the order of the columns.
template <typename Group>
constexpr int64_t kKeptSizeBytes = 4 * kParts<Group>* kVectorSizeBytes;

// A group of a tile: row blocks that lie row_block_size_bytes apart, by tokens.
template <typename Group>
struct TileGroup {
  const uint8_t* scales;
  const uint8_t* codes;
  int64_t row_block_size_bytes;
  const Group* x;  // [tokens]
  uint8_t* kept;   // [part][row_block] vectors
};

// sum[..][token] += operands times the values of as many columns.
template <typename Value, int kRowBlocks, int kTokens>
[[gnu::always_inline]] inline void add_values(const Codes* operands,
                                              const Value* values,
                                              int token,
                                              Sum (*sum)[kTokens]) {
  if constexpr (kRowBlocks == 1) {
    sum[0][token] = add_products(sum[0][token], operands[0], values, Value{});
  } else {
    const Codes all = broadcast(values);
    for_each<kFits<kRowBlocks, kTokens>, kRowBlocks>([&](
        auto row_block) __attribute__((always_inline)) {
      sum[row_block][token] =
          add_products(sum[row_block][token], operands[row_block], all, Value{});
    });
  }
}

// The products of part kPart of the group's v-th vector of every row block; then(token) follows
// those of each token.
template <Operands kOperands, int kPart, typename Group, int kRowBlocks, int kTokens, typename Then>
[[gnu::always_inline]] inline void add_part(const TileGroup<Group>& group,
                                            const Codes* vectors,
                                            int v,
                                            Sum (*sum)[kTokens],
                                            const Then& then) {
  using Value = typename Group::Value;
  const int part = v * kParts<Group> + kPart;
  uint8_t* kept = group.kept + part * kRowBlocks * kVectorSizeBytes;
  Codes operands[kRowBlocks];
  for (int row_block = 0; row_block < kRowBlocks; ++row_block, kept += kVectorSizeBytes) {
    if constexpr (kOperands == Operands::kReread) {
      operands[row_block] = load_codes(kept);
    } else {
      operands[row_block] = part_of<kPart>(vectors[row_block], Value{});
      if constexpr (kOperands == Operands::kKept && !kFits<kRowBlocks, kTokens>) {
        store_codes(kept, operands[row_block]);
      }
    }
  }
  for_each<kFits<kRowBlocks, kTokens>, kTokens>([&](auto token) __attribute__((always_inline)) {
    const Value* values = &group.x[token].values[part * (kVectorCols / kParts<Group>)];
    add_values<Value, kRowBlocks, kTokens>(operands, values, token, sum);
    then(token);
  });
}

// Keeps the operands of the group's v-th vector all at once, for tiles whose products leave nothing
// else to store: stores side by side take less from products than as many here and there (2 % of a
// tile of bytes on a Zen 4).
template <typename Group, int kRowBlocks>
[[gnu::always_inline]] inline void keep_parts(const TileGroup<Group>& group,
                                              const Codes* vectors,
                                              int v) {
  uint8_t* kept = group.kept + v * kParts<Group> * kRowBlocks * kVectorSizeBytes;
  for_each<true, kParts<Group>>([&](auto part) __attribute__((always_inline)) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block, kept += kVectorSizeBytes) {
      store_codes(kept, part_of<part>(vectors[row_block], typename Group::Value{}));
    }
  });
}

// The products of the group's v-th vector of every row block; then(token) follows a token's last.
template <Operands kOperands, typename Group, int kRowBlocks, int kTokens, typename Then>
[[gnu::always_inline]] inline void add_vector(const TileGroup<Group>& group,
                                              int v,
                                              Sum (*sum)[kTokens],
                                              const Then& then) {
  const auto go_on = [](auto) {};
  Codes vectors[kRowBlocks];
  if constexpr (kOperands != Operands::kReread) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      const uint8_t* codes =
          group.codes + row_block * group.row_block_size_bytes + v * kVectorSizeBytes;
      prefetch_ahead(codes);
      vectors[row_block] = load_codes(codes);
    }
  }
  if constexpr (kOperands == Operands::kKept && kFits<kRowBlocks, kTokens>) {
    keep_parts<Group, kRowBlocks>(group, vectors, v);
  }
  add_part<kOperands, 0, Group, kRowBlocks, kTokens>(group, vectors, v, sum, go_on);
  if constexpr (kParts<Group> == 4) {
    add_part<kOperands, 1, Group, kRowBlocks, kTokens>(group, vectors, v, sum, go_on);
    add_part<kOperands, 2, Group, kRowBlocks, kTokens>(group, vectors, v, sum, go_on);
  }
  constexpr int kLastPart = kParts<Group> - 1;
  add_part<kOperands, kLastPart, Group, kRowBlocks, kTokens>(group, vectors, v, sum, then);
}

// The operands of second products, from those of every quad, num_row_blocks apart.
template <int kNumWideQuads, bool kBestScale>
Codes wide_operand(const ByteGroup<kNumWideQuads, kBestScale>& x,
                   int idx,
                   const uint8_t* kept,
                   int num_row_blocks) {
  return load_codes(kept + x.wide_quad[idx] * (num_row_blocks * kVectorSizeBytes));
}
#if defined(__AVX512BW__)
inline Codes wide_operand(const MergedBytes& x,
                          int /*idx*/,
                          const uint8_t* kept,
                          int num_row_blocks) {
  const auto quad = [&](int place) {
    return kept + int64_t{x.wide_quad[place]} * (num_row_blocks * kVectorSizeBytes / 8);
  };
  Codes codes = load_codes(quad(0));
  codes = with_bytes<1>(codes, quad(1));
  codes = with_bytes<2>(codes, quad(2));
  return with_bytes<3>(codes, quad(3));
}
#endif

// The second products of a token.
template <typename Group, int kRowBlocks, int kTokens>
[[gnu::always_inline]] inline void add_wide(const TileGroup<Group>& group,
                                            int token,
                                            Sum (*sum)[kTokens]) {
  const Group& x = group.x[token];
  for (int idx = 0; idx < Group::kWideProducts; ++idx) {
    Codes operands[kRowBlocks];
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      operands[row_block] =
          wide_operand(x, idx, group.kept + row_block * kVectorSizeBytes, kRowBlocks);
    }
    add_values<int8_t, kRowBlocks, kTokens>(operands, x.rest[idx], token, sum);
  }
}

// What a sum begins with, and what it is times s.
inline Sum start_sum(const WordGroup& x) { return start_words(&x.start); }
inline Rows value_of(const Sum& sum, const WordGroup& x) { return from_origin(sum, x.origin); }
template <InBytes Group>
Sum start_sum(const Group& x) {
  return start_bytes(&x.offset);
}
template <InBytes Group>
Rows value_of(const Sum& sum, const Group& x) {
  return scaled_bytes(sum, x.scale, x.offset);
}

// The group's sum of one token in words. Alone, a token pays for all of the decoding, so codes are
// masked where they stand, and sums of 16 and 256 times the products kept beside the others: below
// 8 * 3840 * 2^14 < 2^29, and exact when they are joined.
inline Sum sum_of_one(const uint8_t* codes, const WordGroup& x) {
  Sum sum = start_sum(x);
  Sum sum16 = zero_sum();
  Sum sum256 = zero_sum();
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    prefetch_ahead(codes + v * kVectorSizeBytes);
    const Codes vector = load_codes(codes + v * kVectorSizeBytes);
    const int16_t* values = x.values + v * kVectorCols;
    sum = add_products(sum, part_in_place<0>(vector), values, int16_t{});
    sum16 = add_products(sum16, part_in_place<1>(vector), values + 2, int16_t{});
    sum256 = add_products(sum256, part_in_place<2>(vector), values + 4, int16_t{});
    sum = add_products(sum, part_in_place<3>(vector), values + 6, int16_t{});
  }
  return join(sum, sum16, sum256);
}

// Tokens whose products come between a token's last and the scaling of its sums. Scaled all at once
// at the end, their loads and stores of totals hold up the products: 82 against 88 % of the peak.
constexpr int kFinishLag = 2;

// total[row_block][token] += W[16 rows, a group] x[token]
template <Operands kOperands, typename Group, int kRowBlocks, int kTokens>
[[gnu::always_inline]] inline void add_group(const TileGroup<Group>& group,
                                             Rows (*total)[kTokens]) {
  Sum sum[kRowBlocks][kTokens];
  Rows scales[kRowBlocks];
  const auto load_row_scales = [&]() __attribute__((always_inline)) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      scales[row_block] = load_scales(group.scales + row_block * group.row_block_size_bytes);
    }
  };
  constexpr bool kWrittenOut = kFits<kRowBlocks, kTokens>;
  const auto finish = [&](auto token) __attribute__((always_inline)) {
    const Group& x = group.x[token];
    for_each<kWrittenOut, kRowBlocks>([&](auto row_block) __attribute__((always_inline)) {
      total[row_block][token] = multiply_add(value_of(sum[row_block][token], x), scales[row_block],
                                             total[row_block][token]);
    });
  };
  if constexpr (kTokens == 1 && kRowBlocks == 1 && Group::kWideProducts == 0 &&
                kOperands == Operands::kDecoded) {
    sum[0][0] = sum_of_one(group.codes, group.x[0]);
    load_row_scales();
    finish(0);
  } else {
    for_each<kWrittenOut, kTokens>([&](auto token) __attribute__((always_inline)) {
      for_each<kWrittenOut, kRowBlocks>([&](auto row_block) __attribute__((always_inline)) {
        sum[row_block][token] = start_sum(group.x[token]);
      });
    });
    for_each<kWrittenOut, 3>([&](auto v) __attribute__((always_inline)) {
      add_vector<kOperands, Group, kRowBlocks, kTokens>(group, v, sum, [](auto) {});
    });
    add_vector<kOperands, Group, kRowBlocks, kTokens>(
        group, 3, sum, [&](auto token) __attribute__((always_inline)) {
          if (token == 0) load_row_scales();
          if constexpr (Group::kWideProducts != 0) {
            add_wide<Group, kRowBlocks, kTokens>(group, token, sum);
          }
          if (token >= kFinishLag) finish(token - kFinishLag);
        });
    constexpr int kLast = kTokens > kFinishLag ? kFinishLag : kTokens;  // tokens
    for_each<kWrittenOut, kLast>([&](auto idx) __attribute__((always_inline)) {
      finish(kTokens - kLast + idx);
    });
  }
}

// What a tile is made of: row blocks that follow each other, the first tokens of x.
template <typename Group>
struct Tile {
  const uint8_t* weights;  // of the first row block
  int64_t row_block_size_bytes;
  int64_t num_blocks;        // of the columns
  int64_t num_blocks_ahead;  // of the columns, to the end of the row
  Records<Group> x;
  RowBlockTotals* totals;   // += W x
  int32_t first_token;      // of the tile in `totals`
  uint8_t* kept;            // of the first group
  int64_t kept_step_bytes;  // from group to group; 0 where only second products need them
};

template <Operands kOperands, typename Group, int kRowBlocks, int kTokens>
void add_tile(const Tile<Group>& tile) {
  constexpr bool kWrittenOut = kFits<kRowBlocks, kTokens>;
  Rows total[kRowBlocks][kTokens];
  for_each<kWrittenOut, kTokens>([&](auto token) __attribute__((always_inline)) {
    for_each<kWrittenOut, kRowBlocks>([&](auto row_block) __attribute__((always_inline)) {
      total[row_block][token] = load_rows(tile.totals[row_block][tile.first_token + token]);
    });
  });
  const uint8_t* weights = tile.weights;
  const Group* x = tile.x.first;
  uint8_t* kept = tile.kept;
  for (int64_t block = 0; block < tile.num_blocks; ++block, weights += kBlockSizeBytes) {
    // By the first of the tiles that pass these weights.
    if constexpr (kOperands != Operands::kReread) {
      prefetch_scales<kRowBlocks>(weights, tile.row_block_size_bytes,
                                  tile.num_blocks_ahead - block);
    }
#pragma GCC unroll 2
    for (int group = 0; group < 2; ++group) {
      add_group<kOperands, Group, kRowBlocks, kTokens>(
          {.scales = weights + group * 32,
           .codes = weights + kScalesSizeBytes + group * 4 * kVectorSizeBytes,
           .row_block_size_bytes = tile.row_block_size_bytes,
           .x = x,
           .kept = kept},
          total);
      x += tile.x.num_tokens;
      kept += tile.kept_step_bytes;
    }
  }
  for_each<kWrittenOut, kTokens>([&](auto token) __attribute__((always_inline)) {
    for_each<kWrittenOut, kRowBlocks>([&](auto row_block) __attribute__((always_inline)) {
      store_rows(tile.totals[row_block][tile.first_token + token], total[row_block][token]);
    });
  });
}

// kTokens = 1 .. the given one as a run-time choice.
template <Operands kOperands, typename Group, int kRowBlocks, int kTokens>
void add_tile_of(const Tile<Group>& tile, int32_t num_tokens) {
  if constexpr (kTokens > 1) {
    if (num_tokens < kTokens) {
      return add_tile_of<kOperands, Group, kRowBlocks, kTokens - 1>(tile, num_tokens);
    }
  }
  add_tile<kOperands, Group, kRowBlocks, kTokens>(tile);
}

// kRowBlocks row blocks by any number of tokens: a tile of up to kTokens, or several of up to
// kTokensOfSeveral, which keep operands or decode each for itself.
template <typename Group, int kRowBlocks, int kTokens, int kTokensOfSeveral, bool kKeepsOperands>
struct RowsByTiles {
  // Column blocks at a time for more than a tile of tokens: what is kept of them, 128 KiB of two
  // row blocks in words, stays in the second cache while the tiles pass. Half of it is 1 % slower,
  // an eighth 4 %.
  static constexpr int64_t kDepthBlocks = 32;
  // Of the first tile, at least: with fewer tokens it would wait for the memory that it reads.
  static constexpr int32_t kFirstTokens =
      Group::kWideProducts != 0 ? 4 * kTokensOfSeveral / 5 : 2 * kTokensOfSeveral / 3;

  const uint8_t* weights;
  int64_t num_col_blocks;
  Records<Group> x;
  int32_t num_tokens;
  RowBlockTotals* totals;

  void run() const {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      for (int32_t token = 0; token < num_tokens; ++token) {
        std::memset(totals[row_block][token], 0, sizeof(totals[0][0]));
      }
    }
    if (num_tokens <= kTokens) {
      run_tile();
    } else {
      run_tiles();
    }
  }

 private:
  // Of a tile by itself.
  static constexpr Operands kOperands =
      Group::kWideProducts != 0 ? Operands::kKept : Operands::kDecoded;
  static constexpr int64_t kGroupKeptBytes = kRowBlocks * kKeptSizeBytes<Group>;

  [[nodiscard]] Tile<Group> tile_of(int64_t first_block,
                                    int64_t num_blocks,
                                    int32_t first_token,
                                    uint8_t* kept,
                                    int64_t kept_step_bytes) const {
    return {.weights = weights + first_block * kBlockSizeBytes,
            .row_block_size_bytes = num_col_blocks * kBlockSizeBytes,
            .num_blocks = num_blocks,
            .num_blocks_ahead = num_col_blocks - first_block,
            .x = {x.first + 2 * first_block * x.num_tokens + first_token, x.num_tokens},
            .totals = totals,
            .first_token = first_token,
            .kept = kept,
            .kept_step_bytes = kept_step_bytes};
  }

  void run_tile() const {
    alignas(64) uint8_t kept[kOperands == Operands::kKept ? kGroupKeptBytes : 1];
    add_tile_of<kOperands, Group, kRowBlocks, kTokens>(tile_of(0, num_col_blocks, 0, kept, 0),
                                                       num_tokens);
  }

  void run_tiles() const {
    constexpr Operands kFirst = kKeepsOperands ? Operands::kKept : kOperands;
    constexpr Operands kLater = kKeepsOperands ? Operands::kReread : kOperands;
    constexpr int64_t kStepBytes = kKeepsOperands ? kGroupKeptBytes : 0;
    alignas(64) uint8_t kept[kKeepsOperands ? 2 * kDepthBlocks * kStepBytes : kGroupKeptBytes];
    const int32_t num_tiles = (num_tokens + kTokensOfSeveral - 1) / kTokensOfSeveral;
    const int32_t num_per_tile = (num_tokens + num_tiles - 1) / num_tiles;
    const int32_t num_first = num_per_tile > kFirstTokens ? num_per_tile : kFirstTokens;
    const int32_t num_rest = num_tokens - num_first;
    const int64_t num_slices = (num_col_blocks + kDepthBlocks - 1) / kDepthBlocks;
    for (int64_t slice = 0; slice < num_slices; ++slice) {  // alike in size, as the other tiles are
      const int64_t first_block = num_col_blocks * slice / num_slices;
      const int64_t num_blocks = num_col_blocks * (slice + 1) / num_slices - first_block;
      const auto tile_from = [&](int32_t first_token) {
        return tile_of(first_block, num_blocks, first_token, kept, kStepBytes);
      };
      add_tile_of<kFirst, Group, kRowBlocks, kTokensOfSeveral>(tile_from(0), num_first);
      for (int32_t tile = 1; tile < num_tiles; ++tile) {
        const int32_t begin = num_rest * (tile - 1) / (num_tiles - 1);
        const int32_t end = num_rest * tile / (num_tiles - 1);
        add_tile_of<kLater, Group, kRowBlocks, kTokensOfSeveral>(tile_from(num_first + begin),
                                                                 end - begin);
      }
    }
  }
};

// The core of moe-inl.h for integers.
template <typename Group, TileShape kShape>
struct IntegerCore {
  using Record = Group;
  static constexpr int64_t kRowBlocks = 4;
  static constexpr TileLimits kTile = {.row_blocks = kShape.row_blocks,
                                       .few_tokens = kShape.few_tokens};

  static void store_groups(FloatGroup* values, int32_t num_groups, Group* groups) {
    cpu_experts::store_groups(values, num_groups, groups);
  }

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  Records<Group> x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    using Tiles = RowsByTiles<Group, kShape.row_blocks, kShape.tokens, kShape.tokens_of_several,
                              kShape.keeps_operands>;
    using RowTiles =
        RowsByTiles<Group, 1, kShape.row_tokens, kShape.row_tokens, kShape.keeps_operands>;
    const int64_t row_block_size_bytes = num_col_blocks * kBlockSizeBytes;
    int64_t row_block = 0;
    if (num_tokens > kShape.few_tokens && num_tokens <= kShape.most_tokens) {
      for (; row_block + kShape.row_blocks <= num_row_blocks; row_block += kShape.row_blocks) {
        Tiles{weights + row_block * row_block_size_bytes, num_col_blocks, x, num_tokens,
              totals + row_block}
            .run();
      }
    }
    for (; row_block < num_row_blocks; ++row_block) {
      RowTiles{weights + row_block * row_block_size_bytes, num_col_blocks, x, num_tokens,
               totals + row_block}
          .run();
    }
  }
};

template <TileShape kShape>
using BytesOfDown = std::conditional_t<kShape.merges_operands, MergedBytes, ActivatedBytes>;

template <TileShape kShape>
constexpr IntegerKernels integer_kernels() {
  using Words = IntegerCore<WordGroup, kShape>;
  using Input = IntegerCore<InputBytes, kShape>;
  using Activated = IntegerCore<BytesOfDown<kShape>, kShape>;
  return {.words = kernels_of_cores<Words, Words>(), .bytes = kernels_of_cores<Input, Activated>()};
}

}  // namespace
}  // namespace tandem::cpu_experts
