// The vector vocabulary of the kernels: as wide as the compile unit's flags allow. Everything is in
// an anonymous namespace, so that no symbol of one instruction set is ever linked into another.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace tandem::gpu::host {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
constexpr int kMaxAccumulators = 24;  // of 32 registers
#elif defined(__AVX2__)
constexpr int kLanes = 8;
constexpr int kMaxAccumulators = 12;  // of 16 registers
#else
constexpr int kLanes = 4;  // SSE2, which every x86-64 has; no fused multiply-add
constexpr int kMaxAccumulators = 8;
#endif

using F32x = float __attribute__((vector_size(kLanes * 4)));
using I32x = int32_t __attribute__((vector_size(kLanes * 4)));
using F32xUnaligned = float __attribute__((vector_size(kLanes * 4), aligned(4), may_alias));
using I32xUnaligned = int32_t __attribute__((vector_size(kLanes * 4), aligned(2), may_alias));
using U16xUnaligned = uint16_t __attribute__((vector_size(kLanes * 2), aligned(2), may_alias));
using U16x = uint16_t __attribute__((vector_size(kLanes * 2)));
using U32x = uint32_t __attribute__((vector_size(kLanes * 4)));

inline F32x load(const float* x) { return *reinterpret_cast<const F32xUnaligned*>(x); }
inline void store(float* x, F32x value) { *reinterpret_cast<F32xUnaligned*>(x) = value; }
inline I32x load_pairs(const uint16_t* x) { return *reinterpret_cast<const I32xUnaligned*>(x); }
inline F32x as_float(I32x bits) { return reinterpret_cast<F32x>(bits); }
inline I32x as_bits(F32x value) { return reinterpret_cast<I32x>(value); }

inline F32x broadcast(float value) {
#if defined(__AVX512F__)
  return reinterpret_cast<F32x>(_mm512_set1_ps(value));
#elif defined(__AVX2__)
  return reinterpret_cast<F32x>(_mm256_set1_ps(value));
#else
  return F32x{value, value, value, value};
#endif
}

// a * b + c
inline F32x fma(F32x a, F32x b, F32x c) {
#if defined(__AVX512F__)
  return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

// sum + a * b in the register of the sum: with a free choice of the operand to overwrite, the
// compiler spills sums in the tiles that fill all 16 registers.
inline F32x fma_onto(F32x sum, F32x a, F32x b) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  return sum;
#else
  return fma(a, b, sum);
#endif
}

// The even and the odd element of every pair of BF16, widened: a shift, and a mask.
inline F32x even_of(I32x pairs) { return as_float(pairs << 16); }
inline F32x odd_of(I32x pairs) { return as_float(pairs & static_cast<int32_t>(0xffff0000u)); }

inline F32x load_bf16(const uint16_t* x) {
  const U16x bits = *reinterpret_cast<const U16xUnaligned*>(x);
  return reinterpret_cast<F32x>(__builtin_convertvector(bits, U32x) << 16);
}

// To nearest, ties to even; NaN stays NaN.
inline void store_bf16(uint16_t* x, F32x value) {
  const U32x word = reinterpret_cast<U32x>(value);
  const U32x rounded = (word + 0x7fffu + ((word >> 16) & 1u)) >> 16;
  const U32x quiet_nan = (word >> 16) | 0x40u;
  const I32x is_nan = reinterpret_cast<I32x>(value != value);
  const U32x chosen = reinterpret_cast<U32x>((reinterpret_cast<I32x>(quiet_nan) & is_nan) |
                                             (reinterpret_cast<I32x>(rounded) & ~is_nan));
  *reinterpret_cast<U16xUnaligned*>(x) = __builtin_convertvector(chosen, U16x);
}

// NaN in `b` is kept.
inline F32x max(F32x a, F32x b) { return a > b ? a : b; }
inline F32x min(F32x a, F32x b) { return a < b ? a : b; }

// Sum and maximum of all lanes, always in the same order.
inline float sum_of(F32x value) {
  alignas(64) float lanes[kLanes];
  store(lanes, value);
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}
inline float max_of(F32x value) {
  alignas(64) float lanes[kLanes];
  store(lanes, value);
  float result = lanes[0];
  for (int lane = 1; lane < kLanes; ++lane) result = result > lanes[lane] ? result : lanes[lane];
  return result;
}

// exp(x) within 2 units in the last place for -86 <= x <= 88; 0 below, exp(88) above; NaN stays.
// x = n ln 2 + r with |r| <= ln 2 / 2; exp(r) by its Taylor series to r^7 (error 3e-9 relative).
inline F32x exp(F32x x) {
  const F32x bounded = min(broadcast(88.0f), max(broadcast(-86.0f), x));
  const F32x magic = broadcast(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const F32x shifted = fma(bounded, broadcast(1.44269504f), magic);
  const F32x n = shifted - magic;
  F32x r = fma(n, broadcast(-0.693145752f), bounded);  // ln 2 in two parts, the first exact * n
  r = fma(n, broadcast(-1.42860677e-6f), r);
  F32x series = broadcast(1.0f / 5040.0f);
  series = fma(series, r, broadcast(1.0f / 720.0f));
  series = fma(series, r, broadcast(1.0f / 120.0f));
  series = fma(series, r, broadcast(1.0f / 24.0f));
  series = fma(series, r, broadcast(1.0f / 6.0f));
  series = fma(series, r, broadcast(0.5f));
  series = fma(series, r, broadcast(1.0f));
  series = fma(series, r, broadcast(1.0f));
  const I32x exponent = (as_bits(shifted) - as_bits(magic)) << 23;
  const F32x result = as_float(as_bits(series) + exponent);
  const I32x keep = ~reinterpret_cast<I32x>(x < broadcast(-86.0f));
  return as_float(as_bits(result) & keep);
}

}  // namespace
}  // namespace tandem::gpu::host
