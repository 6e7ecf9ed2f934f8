// What a kernel body may use besides its Cta: annotations, BF16 as numbers, arithmetic of one
// meaning on the device and in the emulator. Plain C++ for g++, device code for nvcc.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

#if defined(__CUDACC__)
#define TANDEM_HOST_DEVICE __host__ __device__
#define TANDEM_DEVICE __device__
#define TANDEM_UNROLL _Pragma("unroll")
#else
#define TANDEM_HOST_DEVICE
#define TANDEM_DEVICE
#define TANDEM_UNROLL
#endif

namespace tandem::gpu::simt {

// Units of vector loads and stores; their addresses are multiples of their size.
struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};

TANDEM_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
TANDEM_HOST_DEVICE constexpr int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
TANDEM_HOST_DEVICE constexpr int64_t min_of(int64_t a, int64_t b) { return a < b ? a : b; }

template <typename T>
TANDEM_HOST_DEVICE T* row_of(const MatrixView<T>& matrix, int64_t row_idx) {
  return matrix.data + row_idx * matrix.row_stride;
}

template <int kBytes>
TANDEM_HOST_DEVICE bool is_multiple_of(const void* address) {
  return reinterpret_cast<uintptr_t>(address) % kBytes == 0;
}

TANDEM_HOST_DEVICE inline float float_of_bits(uint32_t bits) {
#if defined(__CUDA_ARCH__)
  return __uint_as_float(bits);
#else
  return std::bit_cast<float>(bits);
#endif
}

TANDEM_HOST_DEVICE inline uint32_t bits_of_float(float value) {
#if defined(__CUDA_ARCH__)
  return __float_as_uint(value);
#else
  return std::bit_cast<uint32_t>(value);
#endif
}

TANDEM_HOST_DEVICE inline float widen(bf16 value) {
  return float_of_bits(uint32_t{value.bits} << 16);
}

// To nearest, ties to even.
TANDEM_HOST_DEVICE inline bf16 narrow(float value) {
#if defined(__CUDA_ARCH__)
  bf16 result;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(value));
  return result;
#else
  return bf16(value);
#endif
}

// A register of two BF16: the lower half is the element of the lower index.
TANDEM_HOST_DEVICE inline float low_of(uint32_t pair) { return float_of_bits(pair << 16); }
TANDEM_HOST_DEVICE inline float high_of(uint32_t pair) { return float_of_bits(pair & 0xffff0000u); }
TANDEM_HOST_DEVICE inline uint32_t narrow_pair(float low, float high) {
  return uint32_t{narrow(low).bits} | uint32_t{narrow(high).bits} << 16;
}

// The lower or the upper elements of two pairs.
TANDEM_HOST_DEVICE inline uint32_t low_halves(uint32_t first, uint32_t second) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(first, second, 0x5410);
#else
  return (first & 0xffffu) | second << 16;
#endif
}
TANDEM_HOST_DEVICE inline uint32_t high_halves(uint32_t first, uint32_t second) {
#if defined(__CUDA_ARCH__)
  return __byte_perm(first, second, 0x7632);
#else
  return first >> 16 | (second & 0xffff0000u);
#endif
}
// pair + addend in both elements, rounded to BF16.
TANDEM_HOST_DEVICE inline uint32_t add_to_pair(uint32_t pair, float addend) {
#if defined(__CUDA_ARCH__)
  uint32_t sum;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;"  // sm_80 has no addition of pairs
      : "=r"(sum)
      : "r"(pair), "r"(0x3f803f80u), "r"(narrow_pair(addend, addend)));
  return sum;
#else
  return narrow_pair(low_of(pair) + addend, high_of(pair) + addend);
#endif
}

// One rounding on both sides, whatever the compiler would contract.
TANDEM_HOST_DEVICE inline float multiply_add(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

// Products and sums that no compiler contracts.
TANDEM_HOST_DEVICE inline float multiply(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}
TANDEM_HOST_DEVICE inline float add(float a, float b) {
#if defined(__CUDA_ARCH__)
  return __fadd_rn(a, b);
#else
  return a + b;
#endif
}

TANDEM_HOST_DEVICE inline float silu(float z) { return z / (1.0f + expf(-z)); }

}  // namespace tandem::gpu::simt
