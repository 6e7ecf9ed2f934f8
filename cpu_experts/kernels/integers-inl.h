// Dot products of packed rows with activations as integers, included once per instruction set.
//
// A group of 32 activations is x = s * v with integers v. As 16-bit words (Value int16_t): s is a
// power of two with |x| / s < 2^14: a BF16 value within six binades of the group's largest is
// exact, a smaller one is off by at most s / 2. As bytes (int8_t): s = max|x| / 127, lossy.
//
// A group's sum of (code - 8) * v is an exact integer below 2^22, so it does not matter in which
// order, width or instruction set it is formed. It begins with the bits of a float, its origin, of
// which v's unit is the last bit (1.5 * 2^23 units): what stands there at the end, read as a float,
// is origin + sum, and the conversion an instruction would do is part of taking the origin away.
// The sum times s is added to the row's total times the weights' scale by one fused multiply-add,
// groups ascending. Hence the same bits for any number of tokens and on any CPU.
#pragma once

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/simd/rows.h"

namespace tandem::cpu_experts {
namespace {

constexpr float kOrigin = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

// A group of one token. Words stand in the order in which the layout gives their pairs, columns
// 0 2 4 6 1 3 5 7 of every eight, bytes in that of the columns.
template <typename Value>
struct Group;
template <>
struct Group<int16_t> {
  int16_t values[kGroupCols];
  float origin;   // kOrigin * s
  int32_t start;  // of its sums
};
template <>
struct Group<int8_t> {
  int8_t values[kGroupCols];
  float scale;    // s
  float origin;   // kOrigin * s
  int32_t start;  // of its sums
};

inline void store_values(const int32_t* v, int8_t* values) {
  for (int col = 0; col < 32; ++col) values[col] = static_cast<int8_t>(v[col]);
}
inline void store_values(const int32_t* v, int16_t* values) {
  for (int first = 0; first < 32; first += 8) {
    for (int idx = 0; idx < 4; ++idx) {
      values[first + idx] = static_cast<int16_t>(v[first + 2 * idx]);
      values[first + 4 + idx] = static_cast<int16_t>(v[first + 2 * idx + 1]);
    }
  }
}

// v of 32 values: times `inverse`, rounded, within +-limit.
inline void integers_of(const float* values, int32_t* v, float inverse, float limit) {
  for (int col = 0; col < 32; ++col) {
    float scaled = values[col] * inverse;
    scaled = scaled > limit ? limit : scaled;
    scaled = scaled < -limit ? -limit : scaled;
    v[col] = static_cast<int32_t>((scaled + kOrigin) - kOrigin);
  }
}

// v of 32 values; returns s. NaN or infinity among them makes s NaN, and the row's result with it.
template <typename Value>
float quantise(const float* values, int32_t* v) {
  int32_t largest = 0;  // of the magnitudes' bits, which order like the magnitudes
  for (int col = 0; col < 32; ++col) {
    const int32_t bits = word_at(&values[col]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  if (largest >= 0x7f800000) {
    for (int col = 0; col < 32; ++col) v[col] = 0;
    return __builtin_nanf("");
  }
  if constexpr (sizeof(Value) == 2) {
    // The least normal scale serves the tiny and zero. A value of 2^118 or more counts as just
    // less: its origin is the largest.
    int32_t exponent = (largest >> 23) - 13;
    exponent = exponent > 1 ? exponent : 1;
    exponent = exponent < 254 - 23 ? exponent : 254 - 23;
    const int32_t scale_bits = exponent << 23;
    const int32_t inverse_bits = (254 - exponent) << 23;
    float scale, inverse;
    std::memcpy(&scale, &scale_bits, sizeof(scale));
    std::memcpy(&inverse, &inverse_bits, sizeof(inverse));
    integers_of(values, v, inverse, 16383.0f);
    return scale;
  } else {
    float scale;
    std::memcpy(&scale, &largest, sizeof(scale));
    scale /= 127.0f;
    const int32_t short_bits = word_at(&scale) & ~3;  // so that kOrigin * s is exact
    std::memcpy(&scale, &short_bits, sizeof(scale));
    integers_of(values, v, scale > 1e-38f ? 1.0f / scale : 0.0f, 127.0f);
    return scale;
  }
}

// How far ahead of its use memory is asked for: into L2, since in L1 it would take the place of the
// activations (two tokens read memory half as fast).
constexpr int64_t kPrefetchBlocks = 10;

// Of row blocks that are read side by side: behind the end of a row, of those that come next.
template <int kRowBlocks>
inline void prefetch(const uint8_t* block, int64_t row_block_size_bytes, int64_t num_blocks_ahead) {
  const uint8_t* ahead = block + kPrefetchBlocks * kBlockSizeBytes;
  if (num_blocks_ahead <= kPrefetchBlocks) ahead += (kRowBlocks - 1) * row_block_size_bytes;
  for (int row_block = 0; row_block < kRowBlocks; ++row_block, ahead += row_block_size_bytes) {
    for (int64_t line = 0; line < kBlockSizeBytes; line += 64) {
      __builtin_prefetch(ahead + line, 0, 2);
    }
  }
}

// The products of the columns that part kPart of the group's v-th vector of every row block holds.
template <int kPart, typename Value, int kRowBlocks, int kTokens>
inline void add_part(const Codes* vectors,
                     int v,
                     const Group<Value>* const* x,
                     int64_t group_idx,
                     Sum (*sum)[kTokens]) {
  constexpr int64_t kPartCols = 4 / int64_t{sizeof(Value)};
  const int64_t col = v * kVectorCols + kPart * kPartCols;
  Codes codes[kRowBlocks];
  for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
    codes[row_block] = part_of<kPart>(vectors[row_block], Value{});
  }
  for (int token = 0; token < kTokens; ++token) {
    const Value* values = &x[token][group_idx].values[col];
    if constexpr (kRowBlocks == 1) {
      sum[0][token] = add_products<kTokens>(sum[0][token], codes[0], values, Value{});
    } else {
      const Codes all = broadcast(values);
      for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
        sum[row_block][token] = add_products(sum[row_block][token], codes[row_block], all, Value{});
      }
    }
  }
}

// The group's sum of one token in words. Alone, a token pays for all of the decoding, so codes are
// masked where they stand, and sums of 16 and 256 times the products kept beside the others: below
// 8 * 3840 * 2^14 < 2^29, and exact when they are joined.
inline Sum sum_of_one(const uint8_t* codes, const Group<int16_t>& x) {
  Sum sum = start_sum(&x.start);
  Sum sum16 = zero_sum();
  Sum sum256 = zero_sum();
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    const Codes vector = load_codes(codes + v * kVectorSizeBytes);
    const int16_t* values = x.values + v * kVectorCols;
    sum = add_products<1>(sum, part_in_place<0>(vector), values, int16_t{});
    sum16 = add_products<1>(sum16, part_in_place<1>(vector), values + 2, int16_t{});
    sum256 = add_products<1>(sum256, part_in_place<2>(vector), values + 4, int16_t{});
    sum = add_products<1>(sum, part_in_place<3>(vector), values + 6, int16_t{});
  }
  return join(sum, sum16, sum256);
}

// The group's sums of a tile: row blocks that lie row_block_size_bytes apart, by tokens.
template <typename Value, int kRowBlocks, int kTokens>
inline void sums_of_tile(const uint8_t* codes,
                         int64_t row_block_size_bytes,
                         const Group<Value>* const* x,
                         int64_t group_idx,
                         Sum (*sum)[kTokens]) {
  for (int token = 0; token < kTokens; ++token) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      sum[row_block][token] = start_sum(&x[token][group_idx].start);
    }
  }
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    Codes vectors[kRowBlocks];
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      vectors[row_block] =
          load_codes(codes + row_block * row_block_size_bytes + v * kVectorSizeBytes);
    }
    add_part<0, Value, kRowBlocks, kTokens>(vectors, v, x, group_idx, sum);
    add_part<1, Value, kRowBlocks, kTokens>(vectors, v, x, group_idx, sum);
    if constexpr (sizeof(Value) == 2) {
      add_part<2, Value, kRowBlocks, kTokens>(vectors, v, x, group_idx, sum);
      add_part<3, Value, kRowBlocks, kTokens>(vectors, v, x, group_idx, sum);
    }
  }
}

// A sum times s.
inline Rows value_of(const Sum& sum, const Group<int16_t>& x) { return from_origin(sum, x.origin); }
inline Rows value_of(const Sum& sum, const Group<int8_t>& x) {
  return scaled_from_origin(sum, x.scale, x.origin);
}

// total[row_block][token] += W[16 rows, a group] x[token]
template <typename Value, int kRowBlocks, int kTokens>
inline void add_group(const uint8_t* scales,
                      const uint8_t* codes,
                      int64_t row_block_size_bytes,
                      const Group<Value>* const* x,
                      int64_t group_idx,
                      Rows (*total)[kTokens]) {
  Sum sum[kRowBlocks][kTokens];
  if constexpr (sizeof(Value) == 2 && kTokens == 1) {
    sum[0][0] = sum_of_one(codes, x[0][group_idx]);
  } else {
    sums_of_tile<Value, kRowBlocks, kTokens>(codes, row_block_size_bytes, x, group_idx, sum);
  }
  Rows row_scales[kRowBlocks];
  for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
    row_scales[row_block] = load_scales(scales + row_block * row_block_size_bytes);
  }
  for (int token = 0; token < kTokens; ++token) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      total[row_block][token] = multiply_add(value_of(sum[row_block][token], x[token][group_idx]),
                                             row_scales[row_block], total[row_block][token]);
    }
  }
}

// What a tile is made of: kRowBlocks row blocks that follow each other, the tokens of x.
template <typename Value>
struct Tile {
  const uint8_t* weights;  // of the first row block, from first_block on
  int64_t row_block_size_bytes;
  int64_t first_block;       // of the columns
  int64_t num_blocks;        // of the columns, from first_block on
  int64_t num_blocks_ahead;  // of the columns, from first_block to the end of the row
  const Group<Value>* const* x;
  RowBlockTotals* totals;  // += W x
  int32_t first_token;     // of the tile in `totals`
  bool reads_ahead;        // the first of the tiles that read these weights
};

template <typename Value, int kRowBlocks, int kTokens>
void add_tile(const Tile<Value>& tile) {
  const Group<Value>* x[kTokens];
  Rows total[kRowBlocks][kTokens];
  for (int token = 0; token < kTokens; ++token) {
    x[token] = tile.x[token] + 2 * tile.first_block;
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      total[row_block][token] = load_rows(tile.totals[row_block][tile.first_token + token]);
    }
  }
  const uint8_t* weights = tile.weights;
  for (int64_t block = 0; block < tile.num_blocks; ++block, weights += kBlockSizeBytes) {
    if (tile.reads_ahead) {
      prefetch<kRowBlocks>(weights, tile.row_block_size_bytes, tile.num_blocks_ahead - block);
    }
    for (int group = 0; group < 2; ++group) {
      add_group<Value, kRowBlocks, kTokens>(
          weights + group * 32, weights + kScalesSizeBytes + group * 4 * kVectorSizeBytes,
          tile.row_block_size_bytes, x, 2 * block + group, total);
    }
  }
  for (int token = 0; token < kTokens; ++token) {
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      store_rows(tile.totals[row_block][tile.first_token + token], total[row_block][token]);
    }
  }
}

// kTokens = 1 .. kTileTokens as a run-time choice.
template <typename Value, int kRowBlocks, int kTokens = kTileTokens>
void add_tile_of(const Tile<Value>& tile, int32_t num_tokens) {
  if constexpr (kTokens > 1) {
    if (num_tokens < kTokens) return add_tile_of<Value, kRowBlocks, kTokens - 1>(tile, num_tokens);
  }
  add_tile<Value, kRowBlocks, kTokens>(tile);
}

// The core of moe-inl.h for integers.
template <typename Value>
struct IntegerCore {
  static constexpr int64_t kRecordSizeBytes = 2 * sizeof(Group<Value>);
  static constexpr int64_t kRowBlocks = 4;
  // Column blocks at a time for more than a tile of tokens: 9 KiB of weights that stay in L1 while
  // the tiles pass; their activations come from L2.
  static constexpr int64_t kDepthBlocks = 16 / kTileRowBlocks;

  // 32 values as group `group_idx` of a row of records.
  static void store_group(const float* values, void* row, int64_t group_idx) {
    int32_t v[kGroupCols];
    Group<Value>& group = static_cast<Group<Value>*>(row)[group_idx];
    const float scale = quantise<Value>(values, v);
    group.origin = kOrigin * scale;
    if constexpr (sizeof(Value) == 2) {
      group.start = start_of_sum(v, word_at(&group.origin), Value{});
    } else {
      group.scale = scale;
      group.start = start_of_sum(v, word_at(&kOrigin), Value{});
    }
    store_values(v, group.values);
  }

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  const void* const* x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    int64_t row_block = 0;
    // Few tokens wait for memory: they read one row block after the other.
    if (num_tokens > kFewTokens) {
      for (; row_block + kTileRowBlocks <= num_row_blocks; row_block += kTileRowBlocks) {
        dot_rows<kTileRowBlocks>(weights + row_block * row_block_size_bytes(num_col_blocks),
                                 num_col_blocks, x, num_tokens, totals + row_block);
      }
    }
    for (; row_block < num_row_blocks; ++row_block) {
      dot_rows<1>(weights + row_block * row_block_size_bytes(num_col_blocks), num_col_blocks, x,
                  num_tokens, totals + row_block);
    }
  }

 private:
  static constexpr int64_t row_block_size_bytes(int64_t num_col_blocks) {
    return num_col_blocks * kBlockSizeBytes;
  }

  template <int kRowBlocks>
  static void dot_rows(const uint8_t* weights,
                       int64_t num_col_blocks,
                       const void* const* x,
                       int32_t num_tokens,
                       RowBlockTotals* totals) {
    const auto* rows = reinterpret_cast<const Group<Value>* const*>(x);
    const int32_t num_tiles = (num_tokens + kTileTokens - 1) / kTileTokens;
    const int64_t depth = num_tiles == 1 ? num_col_blocks : kDepthBlocks;
    for (int row_block = 0; row_block < kRowBlocks; ++row_block) {
      std::memset(totals[row_block], 0, sizeof(totals[0][0]) * static_cast<size_t>(num_tokens));
    }
    for (int64_t first_block = 0; first_block < num_col_blocks; first_block += depth) {
      for (int32_t tile = 0; tile < num_tiles; ++tile) {  // of tokens, alike in size
        const int32_t token = num_tokens * tile / num_tiles;
        add_tile_of<Value, kRowBlocks>(
            {.weights = weights + first_block * kBlockSizeBytes,
             .row_block_size_bytes = row_block_size_bytes(num_col_blocks),
             .first_block = first_block,
             .num_blocks = at_most<int64_t>(depth, num_col_blocks - first_block),
             .num_blocks_ahead = num_col_blocks - first_block,
             .x = rows + token,
             .totals = totals,
             .first_token = token,
             .reads_ahead = tile == 0},
            num_tokens * (tile + 1) / num_tiles - token);
      }
    }
  }
};

constexpr IntegerKernels kKernels = {
    .words = kernels_of_cores<IntegerCore<int16_t>, IntegerCore<int16_t>>(),
    .bytes = kernels_of_cores<IntegerCore<int8_t>, IntegerCore<int16_t>>()};

}  // namespace
}  // namespace tandem::cpu_experts
