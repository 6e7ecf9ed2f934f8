// The vector vocabulary of the expert kernels: sixteen rows side by side, in the registers that the
// compile unit's flags allow. All of it in an anonymous namespace: no symbol of one instruction set
// is ever linked into another.
//   Rows     16 floats, one a row              Codes    16 words, one a row (expert_layout.h)
//   Pair     the weights of two neighbouring columns     Element  what a row of activations holds
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tandem::cpu_experts {
namespace {

#if defined(__AVX512BF16__)

using Element = uint16_t;  // BF16
constexpr bool kTakesBf16 = true;
#else
using Element = float;
constexpr bool kTakesBf16 = false;
#endif

#if defined(__AVX512F__)

constexpr int kMaxTokens = 8;
using Rows = __m512;
using Codes = __m512i;

inline Rows zero_rows() { return _mm512_setzero_ps(); }
inline Rows add(Rows a, Rows b) { return _mm512_add_ps(a, b); }
inline Rows fma(Rows a, Rows b, Rows c) { return _mm512_fmadd_ps(a, b, c); }  // a * b + c
inline Rows broadcast(float value) { return _mm512_set1_ps(value); }
inline Rows load_rows(const float* from) { return _mm512_loadu_ps(from); }
inline void store_rows(float* to, Rows rows) { _mm512_storeu_ps(to, rows); }
inline Codes load_codes(const uint8_t* from) { return _mm512_loadu_si512(from); }
inline Rows load_scales(const uint8_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

#if defined(__AVX512BF16__)

// -8 .. 7 in BF16, twice: the permutation looks at five bits of an index, and the fifth is the next
// code's.
inline __m512i code_table() {
  alignas(64) static constexpr uint16_t kTable[32] = {
      0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040, 0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000,
      0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0, 0xC100, 0xC0E0, 0xC0C0, 0xC0A0, 0xC080, 0xC040,
      0xC000, 0xBF80, 0x0000, 0x3F80, 0x4000, 0x4040, 0x4080, 0x40A0, 0x40C0, 0x40E0};
  return _mm512_load_si512(kTable);
}
using Pair = __m512bh;
template <int kPair>
Pair decode(Codes codes, __m512i table) {
  return reinterpret_cast<__m512bh>(
      _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * kPair), table));
}
inline Rows add_pair(Rows sum, Pair pair, const Element* x) {
  int32_t both;
  std::memcpy(&both, x, sizeof(both));
  return _mm512_dpbf16_ps(sum, pair, reinterpret_cast<__m512bh>(_mm512_set1_epi32(both)));
}

#else

inline Rows code_table() {
  return _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
}
struct Pair {
  Rows even, odd;
};
template <int kPair>
Pair decode(Codes codes, Rows table) {  // the permutation looks at four bits of an index
  return {_mm512_permutexvar_ps(_mm512_srli_epi32(codes, 4 * kPair), table),
          _mm512_permutexvar_ps(_mm512_srli_epi32(codes, 16 + 4 * kPair), table)};
}
inline Rows add_pair(Rows sum, const Pair& pair, const Element* x) {
  return fma(broadcast(x[1]), pair.odd, fma(broadcast(x[0]), pair.even, sum));
}

#endif

#elif defined(__AVX2__)

constexpr int kMaxTokens = 2;
struct Rows {
  __m256 low, high;
};
struct Codes {
  __m256i low, high;
};
struct Pair {
  Rows even, odd;
};

inline Rows zero_rows() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Rows add(const Rows& a, const Rows& b) {
  return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Rows fma(const Rows& a, const Rows& b, const Rows& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Rows broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
inline Rows load_rows(const float* from) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
inline void store_rows(float* to, const Rows& rows) {
  _mm256_storeu_ps(to, rows.low);
  _mm256_storeu_ps(to + 8, rows.high);
}
inline Codes load_codes(const uint8_t* from) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32))};
}
inline __m256 widen_scales(const uint8_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Rows load_scales(const uint8_t* from) {
  return {widen_scales(from), widen_scales(from + 16)};
}
inline int code_table() { return 0; }
template <int kShift>
__m256 decode_half(__m256i codes) {
  const __m256i code = _mm256_and_si256(_mm256_srli_epi32(codes, kShift), _mm256_set1_epi32(15));
  return _mm256_cvtepi32_ps(_mm256_sub_epi32(code, _mm256_set1_epi32(8)));
}
template <int kPair>
Pair decode(const Codes& codes, int) {
  return {{decode_half<4 * kPair>(codes.low), decode_half<4 * kPair>(codes.high)},
          {decode_half<16 + 4 * kPair>(codes.low), decode_half<16 + 4 * kPair>(codes.high)}};
}
inline Rows add_pair(const Rows& sum, const Pair& pair, const Element* x) {
  return fma(broadcast(x[1]), pair.odd, fma(broadcast(x[0]), pair.even, sum));
}

#else

constexpr int kMaxTokens = 1;
struct Rows {
  float lane[16];
};
struct Codes {
  uint32_t lane[16];
};
struct Pair {
  Rows even, odd;
};

inline Rows zero_rows() { return {}; }
inline Rows add(const Rows& a, const Rows& b) {
  Rows sum;
  for (int row = 0; row < 16; ++row) sum.lane[row] = a.lane[row] + b.lane[row];
  return sum;
}
inline Rows fma(const Rows& a, const Rows& b, const Rows& c) {
  Rows sum;
  for (int row = 0; row < 16; ++row) sum.lane[row] = a.lane[row] * b.lane[row] + c.lane[row];
  return sum;
}
inline Rows broadcast(float value) {
  Rows rows;
  for (float& lane : rows.lane) lane = value;
  return rows;
}
inline Rows load_rows(const float* from) {
  Rows rows;
  std::memcpy(rows.lane, from, sizeof(rows.lane));
  return rows;
}
inline void store_rows(float* to, const Rows& rows) {
  std::memcpy(to, rows.lane, sizeof(rows.lane));
}
inline Codes load_codes(const uint8_t* from) {
  Codes codes;
  std::memcpy(codes.lane, from, sizeof(codes.lane));
  return codes;
}
inline Rows load_scales(const uint8_t* from) {
  uint16_t bits[16];
  std::memcpy(bits, from, sizeof(bits));
  Rows rows;
  for (int row = 0; row < 16; ++row) {
    const uint32_t word = static_cast<uint32_t>(bits[row]) << 16;
    std::memcpy(&rows.lane[row], &word, sizeof(word));
  }
  return rows;
}
inline int code_table() { return 0; }
template <int kPair>
Pair decode(const Codes& codes, int) {
  Pair pair;
  for (int row = 0; row < 16; ++row) {
    pair.even.lane[row] =
        static_cast<float>(static_cast<int>(codes.lane[row] >> (4 * kPair) & 15u) - 8);
    pair.odd.lane[row] =
        static_cast<float>(static_cast<int>(codes.lane[row] >> (16 + 4 * kPair) & 15u) - 8);
  }
  return pair;
}
inline Rows add_pair(const Rows& sum, const Pair& pair, const Element* x) {
  return fma(broadcast(x[1]), pair.odd, fma(broadcast(x[0]), pair.even, sum));
}

#endif

}  // namespace
}  // namespace tandem::cpu_experts
