// The vector vocabulary of the plane kernels: sixteen rows side by side, in the registers that the
// compile unit's flags allow. All of it in an anonymous namespace: no symbol of one instruction set
// is ever linked into another.
//   Quads   four neighbouring codes (0..15) of each row, as bytes
//   Sum     exact sums of code times signed byte over one group of 32 columns, of each row
//   Rows    16 floats, one a row
// A Sum of 16-bit lanes holds its group: two products are at most 2 * 15 * 128 = 3,840, and eight
// of those 30,720.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tandem::cpu_experts {
namespace {

#if defined(__AVX512BW__)

constexpr int kTileTokens = 4;
using Quads = __m512i;
using Sum = __m512i;
using Rows = __m512;

inline Rows zero_rows() { return _mm512_setzero_ps(); }
inline Rows load_rows(const float* from) { return _mm512_loadu_ps(from); }
inline void store_rows(float* to, Rows rows) { _mm512_storeu_ps(to, rows); }
// a * b + c with the scalar b in every row, rounded once
inline Rows fma(Rows a, float b, Rows c) { return _mm512_fmadd_ps(a, _mm512_set1_ps(b), c); }
inline Rows fma(Rows a, Rows b, Rows c) { return _mm512_fmadd_ps(a, b, c); }
inline Rows scale(Rows a, float b) { return _mm512_mul_ps(a, _mm512_set1_ps(b)); }
inline Rows load_scales(const uint8_t* from) {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

inline Quads load_quads(const uint8_t* from) { return _mm512_loadu_si512(from); }
inline void store_quads(uint8_t* to, Quads quads) { _mm512_storeu_si512(to, quads); }
inline Quads low_quads(Quads vector) { return _mm512_and_si512(vector, _mm512_set1_epi8(15)); }
inline Quads high_quads(Quads vector) { return low_quads(_mm512_srli_epi16(vector, 4)); }

inline Sum zero_sum() { return _mm512_setzero_si512(); }
inline Quads broadcast(const uint8_t* four) {
  int32_t word;
  std::memcpy(&word, four, sizeof(word));
  return _mm512_set1_epi32(word);
}
#if defined(__AVX512VNNI__)
inline Sum mac(Sum sum, Quads quads, Quads x) { return _mm512_dpbusd_epi32(sum, quads, x); }
inline Rows to_rows(Sum high, Sum low, int32_t correction) {
  const __m512i sum = _mm512_add_epi32(_mm512_slli_epi32(high, 8), low);
  return _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(correction)));
}
inline Rows to_rows(Sum sum, int32_t correction) {
  return _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(correction)));
}
#else
inline Sum mac(Sum sum, Quads quads, Quads x) {
  return _mm512_add_epi16(sum, _mm512_maddubs_epi16(quads, x));
}
inline Rows to_rows(Sum high, Sum low, int32_t correction) {
  const __m512i sum = _mm512_add_epi32(_mm512_madd_epi16(high, _mm512_set1_epi16(256)),
                                       _mm512_madd_epi16(low, _mm512_set1_epi16(1)));
  return _mm512_cvtepi32_ps(_mm512_add_epi32(sum, _mm512_set1_epi32(correction)));
}
inline Rows to_rows(Sum sum, int32_t correction) {
  return _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_madd_epi16(sum, _mm512_set1_epi16(1)),
                                             _mm512_set1_epi32(correction)));
}
#endif

#elif defined(__AVX2__)

constexpr int kTileTokens = 2;
struct Quads {
  __m256i low, high;  // rows 0..7, 8..15
};
struct Sum {
  __m256i low, high;
};
struct Rows {
  __m256 low, high;
};

inline Rows zero_rows() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
inline Rows load_rows(const float* from) {
  return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
}
inline void store_rows(float* to, const Rows& rows) {
  _mm256_storeu_ps(to, rows.low);
  _mm256_storeu_ps(to + 8, rows.high);
}
inline Rows fma(const Rows& a, const Rows& b, const Rows& c) {
  return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Rows fma(const Rows& a, float b, const Rows& c) {
  return fma(a, Rows{_mm256_set1_ps(b), _mm256_set1_ps(b)}, c);
}
inline Rows scale(const Rows& a, float b) {
  return {_mm256_mul_ps(a.low, _mm256_set1_ps(b)), _mm256_mul_ps(a.high, _mm256_set1_ps(b))};
}
inline __m256 widen_scales(const uint8_t* from) {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
inline Rows load_scales(const uint8_t* from) {
  return {widen_scales(from), widen_scales(from + 16)};
}

inline Quads load_quads(const uint8_t* from) {
  return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)),
          _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + 32))};
}
inline void store_quads(uint8_t* to, const Quads& quads) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), quads.low);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 32), quads.high);
}
inline Quads low_quads(const Quads& vector) {
  const __m256i mask = _mm256_set1_epi8(15);
  return {_mm256_and_si256(vector.low, mask), _mm256_and_si256(vector.high, mask)};
}
inline Quads high_quads(const Quads& vector) {
  return low_quads({_mm256_srli_epi16(vector.low, 4), _mm256_srli_epi16(vector.high, 4)});
}

inline Sum zero_sum() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
inline __m256i broadcast(const uint8_t* four) {
  int32_t word;
  std::memcpy(&word, four, sizeof(word));
  return _mm256_set1_epi32(word);
}
inline Rows to_float(__m256i low, __m256i high, int32_t correction) {
  const __m256i all = _mm256_set1_epi32(correction);
  return {_mm256_cvtepi32_ps(_mm256_add_epi32(low, all)),
          _mm256_cvtepi32_ps(_mm256_add_epi32(high, all))};
}
#if defined(__AVXVNNI__)
inline Sum mac(const Sum& sum, const Quads& quads, __m256i x) {
  return {_mm256_dpbusd_avx_epi32(sum.low, quads.low, x),
          _mm256_dpbusd_avx_epi32(sum.high, quads.high, x)};
}
inline Rows to_rows(const Sum& high, const Sum& low, int32_t correction) {
  return to_float(_mm256_add_epi32(_mm256_slli_epi32(high.low, 8), low.low),
                  _mm256_add_epi32(_mm256_slli_epi32(high.high, 8), low.high), correction);
}
inline Rows to_rows(const Sum& sum, int32_t correction) {
  return to_float(sum.low, sum.high, correction);
}
#else
inline Sum mac(const Sum& sum, const Quads& quads, __m256i x) {
  return {_mm256_add_epi16(sum.low, _mm256_maddubs_epi16(quads.low, x)),
          _mm256_add_epi16(sum.high, _mm256_maddubs_epi16(quads.high, x))};
}
inline __m256i widen(__m256i high, __m256i low) {
  return _mm256_add_epi32(_mm256_madd_epi16(high, _mm256_set1_epi16(256)),
                          _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
}
inline Rows to_rows(const Sum& high, const Sum& low, int32_t correction) {
  return to_float(widen(high.low, low.low), widen(high.high, low.high), correction);
}
inline Rows to_rows(const Sum& sum, int32_t correction) {
  const __m256i ones = _mm256_set1_epi16(1);
  return to_float(_mm256_madd_epi16(sum.low, ones), _mm256_madd_epi16(sum.high, ones), correction);
}
#endif

#else

constexpr int kTileTokens = 1;
struct Quads {
  uint8_t byte[64];
};
struct Sum {
  int32_t lane[16];
};
struct Rows {
  float lane[16];
};

inline Rows zero_rows() { return {}; }
inline Rows load_rows(const float* from) {
  Rows rows;
  std::memcpy(rows.lane, from, sizeof(rows.lane));
  return rows;
}
inline void store_rows(float* to, const Rows& rows) {
  std::memcpy(to, rows.lane, sizeof(rows.lane));
}
inline Rows fma(const Rows& a, const Rows& b, const Rows& c) {
  Rows sum;
  for (int row = 0; row < 16; ++row) {
    sum.lane[row] = __builtin_fmaf(a.lane[row], b.lane[row], c.lane[row]);
  }
  return sum;
}
inline Rows fma(const Rows& a, float b, const Rows& c) {
  Rows all;
  for (float& lane : all.lane) lane = b;
  return fma(a, all, c);
}
inline Rows scale(const Rows& a, float b) {
  Rows product;
  for (int row = 0; row < 16; ++row) product.lane[row] = a.lane[row] * b;
  return product;
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

inline Quads load_quads(const uint8_t* from) {
  Quads quads;
  std::memcpy(quads.byte, from, sizeof(quads.byte));
  return quads;
}
inline void store_quads(uint8_t* to, const Quads& quads) {
  std::memcpy(to, quads.byte, sizeof(quads.byte));
}
inline Quads low_quads(const Quads& vector) {
  Quads quads;
  for (int idx = 0; idx < 64; ++idx) quads.byte[idx] = vector.byte[idx] & 15u;
  return quads;
}
inline Quads high_quads(const Quads& vector) {
  Quads quads;
  for (int idx = 0; idx < 64; ++idx) quads.byte[idx] = static_cast<uint8_t>(vector.byte[idx] >> 4);
  return quads;
}

inline Sum zero_sum() { return {}; }
inline const uint8_t* broadcast(const uint8_t* four) { return four; }
inline Sum mac(const Sum& sum, const Quads& quads, const uint8_t* x) {
  Sum next = sum;
  for (int row = 0; row < 16; ++row) {
    for (int col = 0; col < 4; ++col) {
      next.lane[row] += quads.byte[4 * row + col] * static_cast<int8_t>(x[col]);
    }
  }
  return next;
}
inline Rows to_rows(const Sum& high, const Sum& low, int32_t correction) {
  Rows rows;
  for (int row = 0; row < 16; ++row) {
    rows.lane[row] = static_cast<float>(high.lane[row] * 256 + low.lane[row] + correction);
  }
  return rows;
}
inline Rows to_rows(const Sum& sum, int32_t correction) {
  Rows rows;
  for (int row = 0; row < 16; ++row) {
    rows.lane[row] = static_cast<float>(sum.lane[row] + correction);
  }
  return rows;
}

#endif

}  // namespace
}  // namespace tandem::cpu_experts
