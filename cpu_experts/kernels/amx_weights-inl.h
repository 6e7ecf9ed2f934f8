// A group of packed rows as the B tiles of AMX products: decoders, which the core in amx-inl.h is
// made of.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "cpu_experts/expert_layout.h"
#include "cpu_experts/kernels/moe-inl.h"
#include "runtime/topology/amx_tiles.h"

namespace tandem::cpu_experts {
namespace {

static_assert(kBlockRows == kTileRows && kGroupCols == kTileCols);

// A group of 16 rows, the sum of kTerms tiles: [column pair][row, column of the pair], pairs in the
// order of the layout.
template <int kTerms>
struct WeightTiles {
  Bf16Tile term[kTerms];
};

// The scales of 16 rows as BF16 bits, each twice.
inline __m512i load_scale_pairs(const uint8_t* from) {
  const __m512i scales =
      _mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
  return _mm512_or_si512(scales, _mm512_slli_epi32(scales, 16));
}

inline const uint8_t* vectors_of(const uint8_t* block, int group) {
  return block + kScalesSizeBytes + group * 4 * kVectorSizeBytes;
}

// Scales that may not come out: for these a decoder's exponents can run over.
constexpr float kScaleLimit = 0x1p124f;

// Weights to the bit. A code times its scale can need eleven bits, three more than a BF16 has, but
// every code is the sum of two powers of two with signs, and those times the scale are exact. Such
// a product is the scale's bits plus a difference of exponents and a sign's bit, which tables hold,
// a byte at a time: the permutation of bytes is one operation of one port, that of words two, one
// of them where shifts go.
class ExactWeights {
 public:
  static constexpr int kTerms = 2;

  struct Group {
    const uint8_t* vectors = nullptr;  // of 16 rows by eight columns
    __m512i scales = {};
    __mmask32 has_scale = 0;  // those that are zero, or less than 2^-126, count as zero

    Group() = default;
    Group(const uint8_t* block, int group)
        : vectors(vectors_of(block, group)),
          scales(load_scale_pairs(block + group * 32)),
          has_scale(_mm512_test_epi16_mask(scales, _mm512_set1_epi16(0x7f80))) {}
  };

  // A vector: four column pairs of each tile.
  [[gnu::always_inline]] void decode(const Group& group,
                                     int vector,
                                     WeightTiles<kTerms>& tiles) const {
    const __m512i codes = _mm512_loadu_si512(group.vectors + vector * kVectorSizeBytes);
    // The bytes of a word, and so two of its four codes, twice.
    const __m512i low = _mm512_shuffle_epi8(codes, low_twice_);
    const __m512i high = _mm512_shuffle_epi8(codes, high_twice_);
    const __m512i pairs[4] = {low, _mm512_srli_epi16(low, 4), high, _mm512_srli_epi16(high, 4)};
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; ++pair) {
      // (codes & 0x0f0f) | 0x1000: a high byte's is in the table's second half.
      const __m512i idx = _mm512_ternarylogic_epi32(pairs[pair], _mm512_set1_epi16(0x0f0f),
                                                    _mm512_set1_epi16(0x1000), 0xEA);
#pragma GCC unroll 2
      for (int term = 0; term < kTerms; ++term) {
        const __m512i power = _mm512_permutexvar_epi8(idx, tables_[term]);
        _mm512_store_si512(tiles.term[term].row[4 * vector + pair],
                           _mm512_maskz_add_epi16(group.has_scale, group.scales, power));
      }
    }
  }

 private:
  // The bits to add for every code: the low bytes, then the high ones.
  struct Tables {
    alignas(64) uint8_t bytes[kTerms][64];
  };
  static constexpr Tables make_tables() {
    constexpr int kTermsOfCodes[kTerms][16] = {
        {-4, -8, -4, -4, -2, -2, -1, -2, 1, 2, 1, 2, 2, 4, 4, 8},
        {-4, 1, -2, -1, -2, -1, -1, 1, -1, -1, 1, 1, 2, 1, 2, -1}};
    Tables tables{};
    for (int term = 0; term < kTerms; ++term) {
      for (int code = 0; code < 16; ++code) {
        const int value = kTermsOfCodes[term][code];  // of the code - 8
        const int exponent = __builtin_ctz(static_cast<unsigned>(value));
        const int bits = (value < 0 ? 0x8000 : 0) + (exponent << 7);
        tables.bytes[term][code] = static_cast<uint8_t>(bits);
        tables.bytes[term][16 + code] = static_cast<uint8_t>(bits >> 8);
      }
    }
    return tables;
  }
  static __m512i load_table(int term) {
    static constexpr Tables kTables = make_tables();
    return _mm512_load_si512(kTables.bytes[term]);
  }

  __m512i tables_[kTerms] = {load_table(0), load_table(1)};
  __m512i low_twice_ = _mm512_set4_epi32(0x0e0e0c0c, 0x0a0a0808, 0x06060404, 0x02020000);
  __m512i high_twice_ = _mm512_or_si512(low_twice_, _mm512_set1_epi8(1));
};

// Weights rounded to BF16, to the nearest, halves away from zero: half the products. A code times
// the significand of its scale is exact in FP16; rounded to seven bits of fraction, those bits and
// the exponent's are added to the exponent of the scale. A code of zero counts as 2^-25 of its
// scale.
class RoundedWeights {
 public:
  static constexpr int kTerms = 1;

  struct Group {
    const uint8_t* vectors = nullptr;  // of 16 rows by eight columns
    __m512h significands = {};         // in FP16, 2^14 .. 2^15, with the signs
    __m512h origins = {};              // what a code of zero comes to, with a minus
    __m512i exponents = {};            // what those of FP16 lack, in place
    __mmask32 has_scale = 0;           // those that are zero, or less than 2^-101, count as zero

    Group() = default;
    Group(const uint8_t* block, int group) : vectors(vectors_of(block, group)) {
      const __m512i scales = load_scale_pairs(block + group * 32);
      // sign, the exponent of 2^14, fraction
      __m512i bits =
          _mm512_ternarylogic_epi32(_mm512_slli_epi16(scales, 3), _mm512_set1_epi16(0x03f8),
                                    _mm512_set1_epi16((15 + 14) << 10), 0xEA);
      bits = _mm512_ternarylogic_epi32(bits, scales, _mm512_set1_epi16(-0x8000), 0xF8);
      significands = reinterpret_cast<__m512h>(bits);
      origins = _mm512_mul_ph(significands, _mm512_set1_ph(static_cast<_Float16>(-1.5f)));
      // A code of one times the significand has the exponent of 2^10 in FP16.
      const __m512i of_one = _mm512_set1_epi16((15 + 10) << 7);
      exponents = _mm512_subs_epu16(_mm512_and_si512(scales, _mm512_set1_epi16(0x7f80)), of_one);
      has_scale = _mm512_test_epi16_mask(exponents, exponents);
    }
  };

  // A vector: four column pairs of the tile.
  [[gnu::always_inline]] void decode(const Group& group,
                                     int vector,
                                     WeightTiles<kTerms>& tiles) const {
    const __m512i codes = _mm512_loadu_si512(group.vectors + vector * kVectorSizeBytes);
    // A code to the top of an FP16's fraction.
    const __m512i pairs[4] = {_mm512_slli_epi16(codes, 6), _mm512_slli_epi16(codes, 2),
                              _mm512_srli_epi16(codes, 2), _mm512_srli_epi16(codes, 6)};
#pragma GCC unroll 4
    for (int pair = 0; pair < 4; ++pair) {
      // 1 + (code + 8) / 16, times the significand, less 1.5 of it: code / 16 of it
      const auto above_one = reinterpret_cast<__m512h>(_mm512_ternarylogic_epi32(
          pairs[pair], _mm512_set1_epi16(0x03c0), _mm512_set1_epi16(0x3c00), 0xEA));
      const auto product =
          reinterpret_cast<__m512i>(_mm512_fmadd_ph(above_one, group.significands, group.origins));
      // (bits + 4) >> 3, the sign's copies with it
      const __m512i rounded = _mm512_mulhrs_epi16(product, _mm512_set1_epi16(1 << 12));
      const __m512i bits = _mm512_and_si512(rounded, _mm512_set1_epi16(-0x7001));
      _mm512_store_si512(tiles.term[0].row[4 * vector + pair],
                         _mm512_maskz_add_epi16(group.has_scale, bits, group.exponents));
    }
  }
};

}  // namespace
}  // namespace tandem::cpu_experts
