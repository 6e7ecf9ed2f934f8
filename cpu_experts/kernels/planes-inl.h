// Dot products of packed rows with activations as planes of signed bytes, included once per
// instruction set.
//
// A group of 32 activations is x = s * v with integers v. Two planes: v = 256 h + l, h and l signed
// bytes, and s a power of two with |x| / s < 2^15: a BF16 value within seven binades of the
// group's largest is exact (but for one unit where its mantissa is 255), a smaller one is off by at
// most s / 2. One plane: v = h, s = max|x| / 127: lossy.
//
// A group's sum of (code - 8) * v is an exact integer below 2^24, so it does not matter in which
// order, width or instruction set it is formed; it is converted, multiplied by s, and added to the
// row's total times the weights' scale by one fused multiply-add, groups ascending. Hence the same
// bits for any number of tokens and on any CPU.
#pragma once

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/simd/quads.h"

namespace tandem::cpu_experts {
namespace {

constexpr int kGroupQuads = 8;
constexpr int kBlockQuads = 16;

// One column block of one token.
template <int kPlanes>
struct Record {
  uint8_t quads[kBlockQuads][kPlanes][4];  // of quad 4q .. 4q + 3: h, then l
  float scale[2];                          // of columns 0-31, 32-63
  int32_t correction[2];                   // -8 * sum of v: codes are stored as code + 8
};

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
template <int kPlanes>
float quantise(const float* values, int32_t* v) {
  int32_t largest = 0;  // of the magnitudes' bits, which order like the magnitudes
  for (int col = 0; col < 32; ++col) {
    int32_t bits;
    std::memcpy(&bits, &values[col], sizeof(bits));
    bits &= 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  if (largest >= 0x7f800000) {
    for (int col = 0; col < 32; ++col) v[col] = 0;
    return __builtin_nanf("");
  }
  if constexpr (kPlanes == 2) {
    // The least normal scale serves the tiny and zero.
    int32_t exponent = (largest >> 23) - 14;
    exponent = exponent > 1 ? exponent : 1;
    const int32_t scale_bits = exponent << 23;
    const int32_t inverse_bits = (254 - exponent) << 23;
    float scale_value, inverse;
    std::memcpy(&scale_value, &scale_bits, sizeof(scale_value));
    std::memcpy(&inverse, &inverse_bits, sizeof(inverse));
    integers_of(values, v, inverse, 32639.0f);
    return scale_value;
  } else {
    float magnitude;
    std::memcpy(&magnitude, &largest, sizeof(magnitude));
    const float inverse = magnitude > 1e-36f ? 127.0f / magnitude : 0.0f;
    integers_of(values, v, inverse, 127.0f);
    return magnitude / 127.0f;
  }
}

// The sums of one group of 32 columns for the tokens of a tile.
template <int kPlanes, int kTokens>
struct GroupSums {
  Sum sum[kTokens][kPlanes];

  GroupSums() {
    for (auto& token : sum) {
      for (Sum& plane : token) plane = zero_sum();
    }
  }
  void add(const Quads& quads, const Record<kPlanes>* const* records, int quad_idx) {
    for (int token = 0; token < kTokens; ++token) {
      for (int plane = 0; plane < kPlanes; ++plane) {
        const auto x = broadcast(records[token]->quads[quad_idx][plane]);
        sum[token][plane] = mac(sum[token][plane], quads, x);
      }
    }
  }
  void finish(const Rows& scales,
              const Record<kPlanes>* const* records,
              int group,
              Rows* total) const {
    for (int token = 0; token < kTokens; ++token) {
      const int32_t correction = records[token]->correction[group];
      Rows rows;
      if constexpr (kPlanes == 2) {
        rows = to_rows(sum[token][0], sum[token][1], correction);
      } else {
        rows = to_rows(sum[token][0], correction);
      }
      total[token] = fma(scale(rows, records[token]->scale[group]), scales, total[token]);
    }
  }
};

// Column blocks of 16 rows with their codes as bytes: made once for all tiles of a call.
constexpr int kDepthBlocks = 4;  // column blocks at a time: four row blocks of them stay in L1
struct Unpacked {
  alignas(64) uint8_t quads[kDepthBlocks][kBlockQuads][64];
  alignas(64) float scales[kDepthBlocks][2][kBlockRows];
};

inline void unpack(const uint8_t* weights, int64_t num_blocks, Unpacked& out) {
  for (int64_t block = 0; block < num_blocks; ++block, weights += kBlockSizeBytes) {
    for (int v = 0; v < 8; ++v) {
      const Quads vector = load_quads(weights + kScalesSizeBytes + v * kVectorSizeBytes);
      store_quads(out.quads[block][2 * v], low_quads(vector));
      store_quads(out.quads[block][2 * v + 1], high_quads(vector));
    }
    store_rows(out.scales[block][0], load_scales(weights));
    store_rows(out.scales[block][1], load_scales(weights + 32));
  }
}

// How far ahead of its use memory is asked for.
constexpr int64_t kPrefetchSizeBytes = 16 * kBlockSizeBytes;

// total[token] = W[16 rows, :] x[token], straight from the packed form
template <int kPlanes, int kTokens>
void dot_packed(const uint8_t* weights, int64_t num_blocks, const void* const* x, Rows* total) {
  const Record<kPlanes>* records[kTokens];
  for (int token = 0; token < kTokens; ++token) {
    records[token] = static_cast<const Record<kPlanes>*>(x[token]);
    total[token] = zero_rows();
  }
  for (int64_t block = 0; block < num_blocks; ++block, weights += kBlockSizeBytes) {
    for (int64_t line = 0; line < kBlockSizeBytes; line += 64) {
      __builtin_prefetch(weights + kPrefetchSizeBytes + line);
    }
#pragma GCC unroll 2
    for (int group = 0; group < 2; ++group) {
      GroupSums<kPlanes, kTokens> sums;
      const uint8_t* vectors = weights + kScalesSizeBytes + group * 4 * kVectorSizeBytes;
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const Quads vector = load_quads(vectors + v * kVectorSizeBytes);
        sums.add(low_quads(vector), records, group * kGroupQuads + 2 * v);
        sums.add(high_quads(vector), records, group * kGroupQuads + 2 * v + 1);
      }
      sums.finish(load_scales(weights + group * 32), records, group, total);
    }
    for (auto& record : records) ++record;
  }
}

// Memory to ask for during a product, a line at a time: all at once would fill the core's buffers
// for misses and stall it.
struct Ahead {
  const uint8_t* next = nullptr;
  int64_t num_lines = 0;
};

// total[token] += W[16 rows, the unpacked blocks] x[token, those blocks]
template <int kPlanes, int kTokens>
void dot_unpacked(const Unpacked& weights,
                  int64_t first_block,
                  int64_t num_blocks,
                  const void* const* x,
                  Ahead ahead,
                  float (*totals)[kBlockRows]) {
  const int64_t group_lines = (ahead.num_lines + 2 * num_blocks - 1) / (2 * num_blocks);
  const Record<kPlanes>* records[kTokens];
  Rows total[kTokens];
  for (int token = 0; token < kTokens; ++token) {
    records[token] = static_cast<const Record<kPlanes>*>(x[token]) + first_block;
    total[token] = load_rows(totals[token]);
  }
  for (int64_t block = 0; block < num_blocks; ++block) {
    for (int group = 0; group < 2; ++group) {
      for (int64_t line = 0; line < group_lines; ++line, ahead.next += 64) {
        __builtin_prefetch(ahead.next, 0, 2);
      }
      GroupSums<kPlanes, kTokens> sums;
#pragma GCC unroll 8
      for (int quad = 0; quad < kGroupQuads; ++quad) {
        const int quad_idx = group * kGroupQuads + quad;
        sums.add(load_quads(weights.quads[block][quad_idx]), records, quad_idx);
      }
      sums.finish(load_rows(weights.scales[block][group]), records, group, total);
    }
    for (auto& record : records) ++record;
  }
  for (int token = 0; token < kTokens; ++token) store_rows(totals[token], total[token]);
}

// A part of the records that `tile` reads, one of four, the row blocks before it: pieces of rows
// far apart, which no hardware foresees. Behind the last tile comes the first, further on.
template <int kPlanes>
void prefetch_records(const void* const* x,
                      int32_t num_tokens,
                      int32_t tile,
                      int64_t first_block,
                      int64_t num_blocks,
                      int64_t part) {
  int64_t token = int64_t{tile} * kTileTokens;
  if (token >= num_tokens) {
    token = 0;
    first_block += num_blocks;
  }
  for (; part < kTileTokens * 2; part += 4) {
    const int64_t tile_token = token + part / 2;
    if (tile_token >= num_tokens) return;
    const auto* records = static_cast<const Record<kPlanes>*>(x[tile_token]) + first_block;
    const int64_t half_size_bytes = num_blocks * int64_t{sizeof(Record<kPlanes>)} / 2;
    const auto* half = reinterpret_cast<const uint8_t*>(records) + part % 2 * half_size_bytes;
    for (int64_t offset = 0; offset < half_size_bytes; offset += 64) {
      __builtin_prefetch(half + offset);
    }
  }
}

// kTokens = 1 .. kTileTokens as a run-time choice.
template <int kPlanes, int kTokens = kTileTokens>
void dot_packed_any(
    const uint8_t* weights, int64_t num_blocks, const void* const* x, int num_tokens, Rows* total) {
  if constexpr (kTokens > 1) {
    if (num_tokens < kTokens) {
      return dot_packed_any<kPlanes, kTokens - 1>(weights, num_blocks, x, num_tokens, total);
    }
  }
  dot_packed<kPlanes, kTokens>(weights, num_blocks, x, total);
}
template <int kPlanes, int kTokens = kTileTokens>
void dot_unpacked_any(const Unpacked& weights,
                      int64_t first_block,
                      int64_t num_blocks,
                      const void* const* x,
                      int num_tokens,
                      Ahead ahead,
                      float (*totals)[kBlockRows]) {
  if constexpr (kTokens > 1) {
    if (num_tokens < kTokens) {
      return dot_unpacked_any<kPlanes, kTokens - 1>(weights, first_block, num_blocks, x, num_tokens,
                                                    ahead, totals);
    }
  }
  dot_unpacked<kPlanes, kTokens>(weights, first_block, num_blocks, x, ahead, totals);
}

// The core of moe-inl.h for planes.
template <int kPlanes>
struct PlaneCore {
  static constexpr int64_t kRecordSizeBytes = sizeof(Record<kPlanes>);
  static constexpr int64_t kRowBlocks = 4;

  // 32 values as group `group_idx` of a row of records.
  static void store_group(const float* values, void* row, int64_t group_idx) {
    int32_t v[32];
    Record<kPlanes>& record = static_cast<Record<kPlanes>*>(row)[group_idx / 2];
    const int64_t group = group_idx % 2;
    record.scale[group] = quantise<kPlanes>(values, v);
    int32_t sum = 0;
    for (int col = 0; col < 32; ++col) {
      const int64_t quad = group * kGroupQuads + col / 4;
      sum += v[col];
      if constexpr (kPlanes == 2) {
        const int32_t h = (v[col] + 128) >> 8;
        record.quads[quad][0][col % 4] = static_cast<uint8_t>(h);
        record.quads[quad][1][col % 4] = static_cast<uint8_t>(v[col] - 256 * h);
      } else {
        record.quads[quad][0][col % 4] = static_cast<uint8_t>(v[col]);
      }
    }
    record.correction[group] = -8 * sum;
  }

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  const void* const* x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    const int64_t row_block_size_bytes = num_col_blocks * kBlockSizeBytes;
    if (num_tokens <= kTileTokens) {
      for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
        Rows total[kTileTokens];
        dot_packed_any<kPlanes>(weights + row_block * row_block_size_bytes, num_col_blocks, x,
                                num_tokens, total);
        for (int token = 0; token < num_tokens; ++token) {
          store_rows(totals[row_block][token], total[token]);
        }
      }
      return;
    }
    std::memset(totals, 0, sizeof(totals[0]) * static_cast<size_t>(num_row_blocks));
    Unpacked unpacked[kRowBlocks];
    for (int64_t first_block = 0; first_block < num_col_blocks; first_block += kDepthBlocks) {
      const int64_t num_blocks = at_most<int64_t>(kDepthBlocks, num_col_blocks - first_block);
      // What is unpacked next: these row blocks further on, or the row blocks behind them.
      const int64_t next_block = first_block + num_blocks == num_col_blocks
                                     ? num_row_blocks * num_col_blocks
                                     : first_block + num_blocks;
      const int32_t num_tiles = (num_tokens + kTileTokens - 1) / kTileTokens;
      const int64_t tile_lines = (kDepthBlocks * kBlockSizeBytes / 64 + num_tiles - 1) / num_tiles;
      for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
        unpack(weights + row_block * row_block_size_bytes + first_block * kBlockSizeBytes,
               num_blocks, unpacked[row_block]);
      }
      for (int32_t tile = 0; tile < num_tiles; ++tile) {
        const int32_t token = tile * kTileTokens;
        const int num_tile = at_most(kTileTokens, num_tokens - token);
        for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
          prefetch_records<kPlanes>(x, num_tokens, tile + 1, first_block, num_blocks, row_block);
          const uint8_t* next = weights + row_block * row_block_size_bytes +
                                next_block * kBlockSizeBytes + tile * tile_lines * 64;
          dot_unpacked_any<kPlanes>(unpacked[row_block], first_block, num_blocks, x + token,
                                    num_tile, {next, tile_lines}, &totals[row_block][token]);
        }
      }
    }
  }
};

constexpr PlaneKernels kKernels = {.two_planes = kernels_of_cores<PlaneCore<2>, PlaneCore<2>>(),
                                   .one_plane = kernels_of_cores<PlaneCore<1>, PlaneCore<2>>()};

}  // namespace
}  // namespace tandem::cpu_experts
