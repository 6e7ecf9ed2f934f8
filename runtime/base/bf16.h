// BF16 as a storage type: the upper half of an IEEE-754 binary32. Arithmetic happens in float.
#pragma once

#include <bit>
#include <cstdint>

namespace tandem {

struct bf16 {
  uint16_t bits = 0;

  bf16() = default;
  explicit bf16(float value) : bits(round_to_nearest_even(value)) {}

  static bf16 from_bits(uint16_t bits) {
    bf16 result;
    result.bits = bits;
    return result;
  }

  [[nodiscard]] float to_float() const {
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  explicit operator float() const { return to_float(); }
  friend bool operator==(bf16, bf16) = default;

 private:
  // Ties to even, as the checkpoint's own tools round; NaN stays NaN (a rounded payload could
  // become inf).
  static uint16_t round_to_nearest_even(float value) {
    const uint32_t word = std::bit_cast<uint32_t>(value);
    if ((word & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((word >> 16) | 0x40u);
    return static_cast<uint16_t>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
  }
};
static_assert(sizeof(bf16) == 2);

}  // namespace tandem
