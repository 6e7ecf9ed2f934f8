// Dot products of packed rows with activations as integers, included once per instruction set.
//
// A group of 32 activations is x = s * v with integers v. As 16-bit words (Value int16_t): s is a
// power of two with |x| / s < 2^15: a BF16 value within seven binades of the group's largest is
// exact (but for one unit where its mantissa is 255), a smaller one is off by at most s / 2. As
// bytes (int8_t): s = max|x| / 127, lossy.
//
// A group's sum of (code - 8) * v is an exact integer below 2^24, so it does not matter in which
// order, width or instruction set it is formed; it is converted, multiplied by s, and added to the
// row's total times the weights' scale by one fused multiply-add, groups ascending. Hence the same
// bits for any number of tokens and on any CPU.
#pragma once

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/simd/rows.h"

namespace tandem::cpu_experts {
namespace {

// One column block of one token. Words stand in the order in which the layout gives their pairs,
// columns 0 2 4 6 1 3 5 7 of every eight, bytes in that of the columns.
template <typename Value>
struct Record {
  Value values[kBlockCols];
  float scale[2];    // s of columns 0-31, 32-63
  int32_t start[2];  // of the groups' sums
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
    const float magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
    float scaled = values[col] * inverse;
    scaled = scaled > limit ? limit : scaled;
    scaled = scaled < -limit ? -limit : scaled;
    v[col] = static_cast<int32_t>((scaled + magic) - magic);
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
    // The least normal scale serves the tiny and zero.
    int32_t exponent = (largest >> 23) - 14;
    exponent = exponent > 1 ? exponent : 1;
    const int32_t scale_bits = exponent << 23;
    const int32_t inverse_bits = (254 - exponent) << 23;
    float scale, inverse;
    std::memcpy(&scale, &scale_bits, sizeof(scale));
    std::memcpy(&inverse, &inverse_bits, sizeof(inverse));
    integers_of(values, v, inverse, 32639.0f);
    return scale;
  } else {
    float magnitude;
    std::memcpy(&magnitude, &largest, sizeof(magnitude));
    const float inverse = magnitude > 1e-36f ? 127.0f / magnitude : 0.0f;
    integers_of(values, v, inverse, 127.0f);
    return magnitude / 127.0f;
  }
}

// How far ahead of its use memory is asked for: into L2, since in L1 it would take the place of the
// activations (two tokens read memory half as fast).
constexpr int64_t kPrefetchSizeBytes = 10 * kBlockSizeBytes;

// The products of the columns that part kPart of a vector holds.
template <int kPart, typename Value, int kTokens>
inline void add_part(const Codes& vector,
                     int64_t vector_idx,
                     const Record<Value>* const* records,
                     Sum* sum) {
  constexpr int64_t kPartCols = 4 / int64_t{sizeof(Value)};
  const Codes codes = part_of<kPart>(vector, Value{});
  const int64_t idx = vector_idx * kVectorCols + kPart * kPartCols;
  for (int token = 0; token < kTokens; ++token) {
    sum[token] = add_products<kTokens>(sum[token], codes, &records[token]->values[idx], Value{});
  }
}

// The group's sum of one token in words. Alone, a token pays for all of the decoding, so codes are
// masked where they stand, and sums of 16 and 256 times the products kept beside the others: below
// 8 * 3840 * 2^15 < 2^30, and exact when they are joined.
inline Sum sum_of_one(const uint8_t* block, int group, const Record<int16_t>& record) {
  Sum sum = start_sum(&record.start[group]);
  Sum sum16 = zero_sum();
  Sum sum256 = zero_sum();
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    const int64_t vector_idx = 4 * group + v;
    const Codes vector = load_codes(block + kScalesSizeBytes + vector_idx * kVectorSizeBytes);
    const int16_t* x = record.values + vector_idx * kVectorCols;
    sum = add_products<1>(sum, part_in_place<0>(vector), x, int16_t{});
    sum16 = add_products<1>(sum16, part_in_place<1>(vector), x + 2, int16_t{});
    sum256 = add_products<1>(sum256, part_in_place<2>(vector), x + 4, int16_t{});
    sum = add_products<1>(sum, part_in_place<3>(vector), x + 6, int16_t{});
  }
  return join(sum, sum16, sum256);
}

// The group's sums of a tile of tokens.
template <typename Value, int kTokens>
inline void sums_of_tile(const uint8_t* block,
                         int group,
                         const Record<Value>* const* records,
                         Sum* sum) {
  for (int token = 0; token < kTokens; ++token) {
    sum[token] = start_sum(&records[token]->start[group]);
  }
#pragma GCC unroll 4
  for (int v = 0; v < 4; ++v) {
    const int64_t vector_idx = 4 * group + v;
    const Codes vector = load_codes(block + kScalesSizeBytes + vector_idx * kVectorSizeBytes);
    add_part<0, Value, kTokens>(vector, vector_idx, records, sum);
    add_part<1, Value, kTokens>(vector, vector_idx, records, sum);
    if constexpr (sizeof(Value) == 2) {
      add_part<2, Value, kTokens>(vector, vector_idx, records, sum);
      add_part<3, Value, kTokens>(vector, vector_idx, records, sum);
    }
  }
}

// total[token] += W[16 rows, a group of one block] x[token]
template <typename Value, int kTokens>
inline void add_group(const uint8_t* block,
                      int group,
                      const Record<Value>* const* records,
                      Rows* total) {
  Sum sum[kTokens];
  if constexpr (sizeof(Value) == 2 && kTokens == 1) {
    sum[0] = sum_of_one(block, group, *records[0]);
  } else {
    sums_of_tile<Value, kTokens>(block, group, records, sum);
  }
  const Rows scales = load_scales(block + group * 32);
  for (int token = 0; token < kTokens; ++token) {
    total[token] = add_scaled(to_rows(sum[token], Value{}), records[token]->scale[group], scales,
                              total[token]);
  }
}

// totals[token] += W[16 rows, num_blocks column blocks] x[token]
template <typename Value, int kTokens>
void add_dot(const uint8_t* weights,
             int64_t num_blocks,
             const Record<Value>* const* x,
             int64_t first_block,
             float (*totals)[kBlockRows]) {
  const Record<Value>* records[kTokens];
  Rows total[kTokens];
  for (int token = 0; token < kTokens; ++token) {
    records[token] = x[token] + first_block;
    total[token] = load_rows(totals[token]);
  }
  for (int64_t block = 0; block < num_blocks; ++block, weights += kBlockSizeBytes) {
    for (int64_t line = 0; line < kBlockSizeBytes; line += 64) {
      __builtin_prefetch(weights + kPrefetchSizeBytes + line, 0, 2);
    }
    for (int group = 0; group < 2; ++group) {
      add_group<Value, kTokens>(weights, group, records, total);
    }
    for (auto& record : records) ++record;
  }
  for (int token = 0; token < kTokens; ++token) store_rows(totals[token], total[token]);
}

// kTokens = 1 .. kTileTokens as a run-time choice.
template <typename Value, int kTokens = kTileTokens>
void add_dot_any(const uint8_t* weights,
                 int64_t num_blocks,
                 const Record<Value>* const* x,
                 int64_t first_block,
                 int num_tokens,
                 float (*totals)[kBlockRows]) {
  if constexpr (kTokens > 1) {
    if (num_tokens < kTokens) {
      return add_dot_any<Value, kTokens - 1>(weights, num_blocks, x, first_block, num_tokens,
                                             totals);
    }
  }
  add_dot<Value, kTokens>(weights, num_blocks, x, first_block, totals);
}

// The core of moe-inl.h for integers.
template <typename Value>
struct IntegerCore {
  static constexpr int64_t kRecordSizeBytes = sizeof(Record<Value>);
  static constexpr int64_t kRowBlocks = 4;
  // Column blocks at a time for more than a tile of tokens: 9 KiB of weights that stay in L1 while
  // the tiles pass; their activations come from L2.
  static constexpr int64_t kDepthBlocks = 16;

  // 32 values as group `group_idx` of a row of records.
  static void store_group(const float* values, void* row, int64_t group_idx) {
    int32_t v[kGroupCols];
    Record<Value>& record = static_cast<Record<Value>*>(row)[group_idx / 2];
    const int64_t group = group_idx % 2;
    record.scale[group] = quantise<Value>(values, v);
    record.start[group] = start_of_sum(v, Value{});
    store_values(v, record.values + group * kGroupCols);
  }

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  const void* const* x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    const auto* records = reinterpret_cast<const Record<Value>* const*>(x);
    const int32_t num_tiles = (num_tokens + kTileTokens - 1) / kTileTokens;
    const int64_t depth = num_tiles == 1 ? num_col_blocks : kDepthBlocks;
    for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
      std::memset(totals[row_block], 0, sizeof(totals[0][0]) * static_cast<size_t>(num_tokens));
      for (int64_t first_block = 0; first_block < num_col_blocks; first_block += depth) {
        const int64_t num_blocks = at_most<int64_t>(depth, num_col_blocks - first_block);
        for (int32_t tile = 0; tile < num_tiles; ++tile) {  // of tokens, alike in size
          const int32_t token = num_tokens * tile / num_tiles;
          add_dot_any<Value>(weights + first_block * kBlockSizeBytes, num_blocks, records + token,
                             first_block, num_tokens * (tile + 1) / num_tiles - token,
                             &totals[row_block][token]);
        }
      }
      weights += num_col_blocks * kBlockSizeBytes;
    }
  }
};

constexpr IntegerKernels kKernels = {
    .words = kernels_of_cores<IntegerCore<int16_t>, IntegerCore<int16_t>>(),
    .bytes = kernels_of_cores<IntegerCore<int8_t>, IntegerCore<int16_t>>()};

}  // namespace
}  // namespace tandem::cpu_experts
