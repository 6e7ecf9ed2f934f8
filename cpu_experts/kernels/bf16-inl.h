// Dot products of packed rows with BF16 activations by AVX-512's products of BF16 pairs.
//
// Order of every sum, whatever num_tokens: inside a group of 32 columns pair by pair from zero; the
// group's sum times the row's scale is added to the total by one fused multiply-add; groups in
// ascending order. The activations of down are rounded to BF16 once.
#pragma once

#include <immintrin.h>

#include "cpu_experts/expert_kernels.h"
#include "cpu_experts/expert_layout.h"
#include "cpu_experts/kernels/moe-inl.h"

namespace tandem::cpu_experts {
namespace {

constexpr int kTileTokens = 8;

// A group of one token: the columns of a vector of eight in the order in which the layout gives
// their pairs, 0 2 4 6 1 3 5 7.
struct Bf16Group {
  uint16_t columns[kGroupCols];
};

// -8 .. 7 in BF16, twice: the permutation looks at five bits of an index, and the fifth is the next
// code's.
inline __m512i code_table() {
  alignas(64) static constexpr uint16_t kTable[32] = {
      0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000,
      0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040,
      0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};
  return _mm512_load_si512(kTable);
}

inline __m512 load_scales(const uint8_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline __m512bh broadcast_pair(const uint16_t* pair) {
  int32_t both;
  std::memcpy(&both, pair, sizeof(both));
  return reinterpret_cast<__m512bh>(_mm512_set1_epi32(both));
}

// total[token] = W[16 rows, :] x[token]
template <int kTokens>
void dot_rows(const uint8_t* weights, int64_t num_blocks, Records<Bf16Group> x, __m512* total) {
  const __m512i table = code_table();
  const Bf16Group* tokens = x.first;
  for (int token = 0; token < kTokens; ++token) total[token] = _mm512_setzero_ps();
  for (int64_t block = 0; block < num_blocks; ++block, weights += kBlockSizeBytes) {
    prefetch_ahead(weights);
    for (int group = 0; group < 2; ++group, tokens += x.num_tokens) {
      __m512 sum[kTokens];
      for (__m512& token_sum : sum) token_sum = _mm512_setzero_ps();
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) {
        const uint8_t* vector = weights + kScalesSizeBytes + (4 * group + v) * kVectorSizeBytes;
        prefetch_ahead(vector);
        __m512i codes = _mm512_loadu_si512(vector);
#pragma GCC unroll 4
        for (int pair = 0; pair < 4; ++pair, codes = _mm512_srli_epi16(codes, 4)) {
          const auto values = reinterpret_cast<__m512bh>(_mm512_permutexvar_epi16(codes, table));
          for (int token = 0; token < kTokens; ++token) {
            const uint16_t* columns = tokens[token].columns + kVectorCols * v + 2 * pair;
            sum[token] = _mm512_dpbf16_ps(sum[token], values, broadcast_pair(columns));
          }
        }
      }
      const __m512 scales = load_scales(weights + group * 32);
      for (int token = 0; token < kTokens; ++token) {
        total[token] = _mm512_fmadd_ps(sum[token], scales, total[token]);
      }
    }
  }
}

// kTokens = 1 .. kTileTokens as a run-time choice.
template <int kTokens = kTileTokens>
void dot_rows_any(const uint8_t* weights,
                  int64_t num_blocks,
                  Records<Bf16Group> x,
                  int num_tokens,
                  __m512* total) {
  if constexpr (kTokens > 1) {
    if (num_tokens < kTokens) {
      return dot_rows_any<kTokens - 1>(weights, num_blocks, x, num_tokens, total);
    }
  }
  dot_rows<kTokens>(weights, num_blocks, x, total);
}

// The core of moe-inl.h for BF16 pairs.
struct Bf16Core {
  using Record = Bf16Group;
  static constexpr int64_t kRowBlocks = 4;
  static constexpr TileLimits kTile = {};

  static void store_groups(const FloatGroup* values, int32_t num_groups, Bf16Group* groups) {
    alignas(64) static constexpr uint16_t kOrder[32] = {0,  2,  4,  6,  1,  3,  5,  7,  8,  10, 12,
                                                        14, 9,  11, 13, 15, 16, 18, 20, 22, 17, 19,
                                                        21, 23, 24, 26, 28, 30, 25, 27, 29, 31};
    for (int32_t idx = 0; idx < num_groups; ++idx) {
      const auto rounded = reinterpret_cast<__m512i>(
          _mm512_cvtne2ps_pbh(_mm512_loadu_ps(values[idx] + 16), _mm512_loadu_ps(values[idx])));
      _mm512_storeu_si512(groups[idx].columns,
                          _mm512_permutexvar_epi16(_mm512_load_si512(kOrder), rounded));
    }
  }

  static void dot(const uint8_t* weights,
                  int64_t num_row_blocks,
                  int64_t num_col_blocks,
                  Records<Bf16Group> x,
                  int32_t num_tokens,
                  RowBlockTotals* totals) {
    for (int64_t row_block = 0; row_block < num_row_blocks; ++row_block) {
      for (int32_t token = 0; token < num_tokens; token += kTileTokens) {
        const int num_tile = at_most(kTileTokens, num_tokens - token);
        __m512 total[kTileTokens];
        dot_rows_any(weights + row_block * num_col_blocks * kBlockSizeBytes, num_col_blocks,
                     x.from(token), num_tile, total);
        for (int idx = 0; idx < num_tile; ++idx) {
          _mm512_storeu_ps(totals[row_block][token + idx], total[idx]);
        }
      }
    }
  }
};

}  // namespace
}  // namespace tandem::cpu_experts
