// Activations as integers, a group of 32 columns at a time: x = s * v. Included once per
// instruction set.
//
// As 16-bit words s is a power of two with |x| / s < 2^14: a BF16 value within six binades of the
// group's largest is exact, a smaller one is off by at most s / 2.
//
// As bytes, lossy, v is within +-127, but for the quads of columns with the largest values: they
// are wide, v is the sum of two bytes. So s need not be the largest |x| / 127, but the largest of
// the other quads, or half of it. The layer's input, made once for all its experts, has one wide
// quad a group and the best of eight scales, which takes a quarter off the error of normally
// distributed values. The input of down has two: longer tails, and the errors of gate and up in it
// already.
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu_experts/expert_layout.h"
#include "cpu_experts/simd/rows.h"

namespace tandem::cpu_experts {
namespace {

constexpr float kOrigin = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer

// A group of one token. Words stand in the order in which the layout gives their pairs, columns
// 0 2 4 6 1 3 5 7 of every eight.
struct WordGroup {
  using Value = int16_t;
  static constexpr int kWideQuads = 0;
  int16_t values[kGroupCols];
  float origin;   // kOrigin * s
  int32_t start;  // of its sums
};

// Bytes stand in the order of the columns.
template <int kNumWideQuads, bool kBestScale>
struct ByteGroup {
  using Value = int8_t;
  static constexpr int kWideQuads = kNumWideQuads;
  int8_t values[kGroupCols];
  int8_t rest[kWideQuads][4];     // of the wide quads: v = value + rest
  int32_t wide_quad[kWideQuads];  // 0 .. 7
  float scale;                    // s
  float origin;                   // kOrigin * s
  int32_t start;                  // of its sums
};
using InputBytes = ByteGroup<1, true>;
using ActivatedBytes = ByteGroup<2, false>;

// v of 32 values: times `inverse`, rounded, within +-limit.
inline void integers_of(const float* values, int32_t* v, float inverse, float limit) {
  for (int col = 0; col < 32; ++col) {
    float scaled = values[col] * inverse;
    scaled = scaled > limit ? limit : scaled;
    scaled = scaled < -limit ? -limit : scaled;
    v[col] = static_cast<int32_t>((scaled + kOrigin) - kOrigin);
  }
}

inline float float_of(int32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

constexpr int32_t kInfinityBits = 0x7f800000;

// 32 values as a group. NaN or infinity among them makes s NaN, and the row's result with it.
inline void store_group(const float* values, WordGroup& group) {
  int32_t largest = 0;  // of the magnitudes' bits, which order like the magnitudes
  for (int col = 0; col < 32; ++col) {
    const int32_t bits = word_at(&values[col]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  int32_t v[kGroupCols] = {};
  if (largest >= kInfinityBits) {
    group.origin = __builtin_nanf("");
  } else {
    // The least normal scale serves the tiny and zero. A value of 2^118 or more counts as just
    // less: its origin is the largest.
    int32_t exponent = (largest >> 23) - 13;
    exponent = exponent > 1 ? exponent : 1;
    exponent = exponent < 254 - 23 ? exponent : 254 - 23;
    integers_of(values, v, float_of((254 - exponent) << 23), 16383.0f);
    group.origin = kOrigin * float_of(exponent << 23);
  }
  group.start = start_of_sum(v, word_at(&group.origin), int16_t{});
  for (int first = 0; first < 32; first += 8) {
    for (int idx = 0; idx < 4; ++idx) {
      group.values[first + idx] = static_cast<int16_t>(v[first + 2 * idx]);
      group.values[first + 4 + idx] = static_cast<int16_t>(v[first + 2 * idx + 1]);
    }
  }
}

// The quads of a group by their largest magnitude: its bits, of which the last three are the quad's
// number. Each stands in four neighbouring lanes.
struct QuadKeys {
  using Lanes = int32_t __attribute__((vector_size(32)));
  Lanes lanes[4];

  explicit QuadKeys(const float* values) {
    for (int32_t pair = 0; pair < 4; ++pair) {
      Lanes bits;
      std::memcpy(&bits, values + 8 * pair, sizeof(bits));
      bits &= 0x7fffffff;
      bits = larger(bits, __builtin_shufflevector(bits, bits, 1, 0, 3, 2, 5, 4, 7, 6));
      bits = larger(bits, __builtin_shufflevector(bits, bits, 2, 3, 0, 1, 6, 7, 4, 5));
      lanes[pair] = (bits & ~7) | (Lanes{0, 0, 0, 0, 1, 1, 1, 1} + 2 * pair);
    }
  }

  [[nodiscard]] int32_t largest() const {
    const Lanes all = larger(larger(lanes[0], lanes[1]), larger(lanes[2], lanes[3]));
    return all[0] > all[4] ? all[0] : all[4];
  }

  void remove(int32_t key) {
    for (Lanes& pair : lanes) pair = pair == key ? Lanes{} : pair;
  }

 private:
  static Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
};

// Of eight scales, 1/128 of the smallest apart, the one with the least squared error of 32 values.
inline float best_scale(const float* values, float smallest) {
  using Scales = float __attribute__((vector_size(32)));
  using Bits = int32_t __attribute__((vector_size(32)));
  const Scales numbers = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f};
  const Scales scales = smallest * (1.0f + numbers / 128.0f);
  const Scales inverse = 1.0f / scales;
  Scales error[4] = {};
#pragma GCC unroll 32
  for (int col = 0; col < 32; ++col) {
    const Scales scaled = inverse * values[col];
    const Scales beside = scaled - ((scaled + kOrigin) - kOrigin);
    error[col % 4] += beside * beside;
  }
  const Scales errors = ((error[0] + error[1]) + (error[2] + error[3])) * scales * scales;
  // Of all but equal ones the first: in their last bits stand their numbers.
  Bits keys = (reinterpret_cast<Bits>(errors) & 0x7ffffff8) | Bits{0, 1, 2, 3, 4, 5, 6, 7};
  const auto smaller = [](Bits left, Bits right) { return left < right ? left : right; };
  keys = smaller(keys, __builtin_shufflevector(keys, keys, 4, 5, 6, 7, 0, 1, 2, 3));
  keys = smaller(keys, __builtin_shufflevector(keys, keys, 2, 3, 0, 1, 6, 7, 4, 5));
  keys = smaller(keys, __builtin_shufflevector(keys, keys, 1, 0, 3, 2, 5, 4, 7, 6));
  return smallest * (1.0f + static_cast<float>(keys[0] & 7) / 128.0f);
}

template <int kWideQuads, bool kBestScale>
void store_group(const float* values, ByteGroup<kWideQuads, kBestScale>& group) {
  QuadKeys keys(values);
  const int32_t largest = keys.largest();
  int32_t next = largest;
  for (int32_t& quad : group.wide_quad) {
    quad = next & 7;
    keys.remove(next);
    next = keys.largest();
  }
  const float of_wide = float_of(largest & ~7) / 254.0f;
  const float of_others = float_of(next & ~7) / 127.0f;
  float smallest = of_wide > of_others ? of_wide : of_others;
  smallest = smallest < 0x1p103f ? smallest : 0x1p103f;  // kOrigin * s stays finite
  int32_t v[kGroupCols] = {};
  if (largest >= kInfinityBits) {
    group.scale = __builtin_nanf("");
  } else if (smallest > 1e-38f) {
    const float scale = kBestScale ? best_scale(values, smallest) : smallest;
    group.scale = float_of(word_at(&scale) & ~3);  // so that kOrigin * s is exact
    integers_of(values, v, 1.0f / group.scale, 254.0f);
  } else {
    group.scale = 0.0f;
  }
  group.origin = kOrigin * group.scale;
  int8_t rest[kGroupCols];
  for (int col = 0; col < 32; ++col) {
    int32_t value = v[col] < 127 ? v[col] : 127;
    value = value > -127 ? value : -127;
    group.values[col] = static_cast<int8_t>(value);
    rest[col] = static_cast<int8_t>(v[col] - value);
  }
  for (int idx = 0; idx < kWideQuads; ++idx) {
    std::memcpy(group.rest[idx], rest + 4 * group.wide_quad[idx], sizeof(group.rest[idx]));
  }
  group.start = start_of_sum(v, word_at(&kOrigin), int8_t{});
}

}  // namespace
}  // namespace tandem::cpu_experts
