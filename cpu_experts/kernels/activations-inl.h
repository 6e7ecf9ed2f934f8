// Activations as integers, a group of 32 columns at a time: x = s * v. Included once per
// instruction set.
//
// As 16-bit words s is a power of two with |x| / s < 2^14: a BF16 value within six binades of the
// group's largest is exact, a smaller one is off by at most s / 2.
//
// As bytes, lossy, v is within +-127, but for the columns with the largest values: they are wide, v
// is the sum of two bytes. So s need not be the largest |x| / 127, but the largest of the others,
// or half of it. What is wide makes a second product of four columns:
//   In the layer's input, made once for all its experts, a quad of neighbours, and s is the best of
//   eight, which takes a quarter off the error of normally distributed values.
//   In the input of down, with longer tails and the errors of gate and up in it already, two quads;
//   or, on a CPU that puts operands together for nothing (Zen 4), four columns of any quads, one of
//   each place in them: nearly as accurate, by one product.
//
// Where nibbles mix (simd/rows.h), v is made of what comes out as x: unmix().
#pragma once

#include <cstdint>
#include <cstring>

#include "cpu_experts/expert_layout.h"
#include "cpu_experts/kernels/moe-inl.h"
#include "cpu_experts/simd/rows.h"

namespace tandem::cpu_experts {
namespace {

// A group of one token. Words stand in the order in which the layout gives their pairs, columns
// 0 2 4 6 1 3 5 7 of every eight.
struct WordGroup {
  using Value = int16_t;
  static constexpr int kWideProducts = 0;  // a row block's second products
  int16_t values[kGroupCols];
  float origin;   // kOrigin * s
  int32_t start;  // of its sums
};

// Bytes stand in the order of the columns.
template <int kNumWideQuads, bool kTakesBestScale>
struct ByteGroup {
  using Value = int8_t;
  static constexpr int kWideProducts = kNumWideQuads;
  static constexpr bool kBestScale = kTakesBestScale;
  int8_t values[kGroupCols];
  int8_t rest[kNumWideQuads][4];     // of what is wide: v = value + rest
  int32_t wide_quad[kNumWideQuads];  // 0 .. 7
  float scale;                       // of sums: s, a sixteenth of it where nibbles mix
  int32_t offset;                    // of sums: offset_of_bytes
};
using InputBytes = ByteGroup<1, true>;
using ActivatedBytes = ByteGroup<2, false>;
// The same with four wide columns.
struct MergedBytes {
  using Value = int8_t;
  static constexpr int kWideProducts = 1;
  static constexpr bool kBestScale = false;
  int8_t values[kGroupCols];
  int8_t rest[1][4];
  uint8_t wide_quad[4];  // times eight, of the wide column in place 0, 1, 2 and 3 of a quad
  float scale;
  int32_t offset;
};

template <typename Group>
concept InBytes = Group::kWideProducts != 0;

// v of 32 values, and by columns.
struct GroupIntegers {
  I32x16 half[2];
};
struct ColumnIntegers {
  int32_t v[kGroupCols];
};
inline ColumnIntegers columns_of(const GroupIntegers& v) {
  return __builtin_bit_cast(ColumnIntegers, v);
}

// Values times `inverse`, rounded, within +-limit.
inline GroupIntegers integers_of(const float* values, float inverse, float limit) {
  GroupIntegers v;
  for (int half = 0; half < 2; ++half) {
    F32x16 scaled;
    std::memcpy(&scaled, values + 16 * half, sizeof(scaled));
    scaled *= inverse;
    scaled = scaled < limit ? scaled : F32x16{} + limit;
    scaled = scaled > -limit ? scaled : F32x16{} - limit;
    v.half[half] = reinterpret_cast<I32x16>(scaled + kOrigin) - kOriginBits;
  }
  return v;
}

constexpr int32_t kInfinityBits = 0x7f800000;

// 32 values as a group. NaN or infinity among them makes s NaN, and the row's result with it.
inline void store_group(const FloatGroup& values, WordGroup& group) {
  int32_t largest = 0;  // of the magnitudes' bits, which order like the magnitudes
  for (int col = 0; col < 32; ++col) {
    const int32_t bits = word_at(&values[col]) & 0x7fffffff;
    largest = bits > largest ? bits : largest;
  }
  GroupIntegers v{};
  if (largest < kInfinityBits) [[likely]] {
    // The least normal scale serves the tiny and zero. A value of 2^118 or more counts as just
    // less: its origin is the largest.
    int32_t exponent = (largest >> 23) - 13;
    exponent = exponent > 1 ? exponent : 1;
    exponent = exponent < 254 - 23 ? exponent : 254 - 23;
    v = integers_of(values, float_of((254 - exponent) << 23), 16383.0f);
    group.origin = kOrigin * float_of(exponent << 23);
  } else {
    group.origin = __builtin_nanf("");
  }
  group.start = start_of_words(columns_of(v).v, word_at(&group.origin));
  using Words = int16_t __attribute__((vector_size(32)));
  for (int half = 0; half < 2; ++half) {
    Words words = __builtin_convertvector(v.half[half], Words);
    words = __builtin_shufflevector(words, words, 0, 2, 4, 6, 1, 3, 5, 7,  //
                                    8, 10, 12, 14, 9, 11, 13, 15);
    std::memcpy(group.values + 16 * half, &words, sizeof(words));
  }
}

inline void store_groups(const FloatGroup* values, int32_t num_groups, WordGroup* groups) {
  for (int32_t idx = 0; idx < num_groups; ++idx) store_group(values[idx], groups[idx]);
}

// The quads of a group by their largest magnitude: a lane each, the magnitude's bits, of which the
// last three are the quad's number.
struct QuadKeys {
  using Lanes = int32_t __attribute__((vector_size(32)));
  Lanes lanes;

  explicit QuadKeys(const float* values) {
    Lanes bits[4];
    std::memcpy(bits, values, sizeof(bits));
    for (Lanes& pair : bits) pair &= 0x7fffffff;
    const Lanes low = folded(bits[0], bits[1]);
    const Lanes high = folded(bits[2], bits[3]);
    // Quads 0 2 4 6 and 1 3 5 7.
    lanes = (folded(low, high) & ~7) | Lanes{0, 2, 4, 6, 1, 3, 5, 7};
  }

  static Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }
  static Lanes with_halves_swapped(Lanes a) {
    return __builtin_shufflevector(a, a, 4, 5, 6, 7, 0, 1, 2, 3);
  }

  // In every lane.
  [[nodiscard]] Lanes largest() const {
    Lanes all = larger(lanes, with_halves_swapped(lanes));
    all = larger(all, __builtin_shufflevector(all, all, 2, 3, 0, 1, 6, 7, 4, 5));
    return larger(all, __builtin_shufflevector(all, all, 1, 0, 3, 2, 5, 4, 7, 6));
  }

  void remove(Lanes key) { lanes = lanes == key ? Lanes{} : lanes; }

 private:
  // The larger of each two neighbours, of a and b in turns of two lanes.
  static Lanes folded(Lanes a, Lanes b) {
    return larger(__builtin_shufflevector(a, b, 0, 2, 8, 10, 4, 6, 12, 14),
                  __builtin_shufflevector(a, b, 1, 3, 9, 11, 5, 7, 13, 15));
  }
};

// Of eight scales, 1/128 of the smallest apart, the one with the least squared error of 32 values.
inline float best_scale(const FloatGroup& values, float smallest) {
  using Scales = float __attribute__((vector_size(32)));
  using Bits = int32_t __attribute__((vector_size(32)));
  const Scales numbers = {0.0f, 1.0f, 2.0f, 3.0f, 4.0f, 5.0f, 6.0f, 7.0f};
  const Scales scales = smallest * (1.0f + numbers / 128.0f);
  const Scales inverse = 1.0f / scales;
  Scales error[4] = {};
#pragma GCC unroll 32
  for (int col = 0; col < kGroupCols; ++col) {
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

// The values whose products with mixed nibbles are those of x: a column's own value plus a
// sixteenth of the one that counts for it too. One of three goes into the next.
inline void unmix(FloatGroup& x) {
  using Columns = float __attribute__((vector_size(32)));
  constexpr float kPart = 1.0f / 16;
  for (int vector = 0; vector < kGroupCols / 8; ++vector) {
    Columns v;
    std::memcpy(&v, x + 8 * vector, sizeof(v));
    v -= Columns{0, kPart, 0, kPart, 0, 0, 0, 0} *
         __builtin_shufflevector(v, v, 0, 5, 2, 7, 4, 5, 6, 7);
    v -= Columns{0, 0, 0, 0, kPart, 0, kPart, 0} *
         __builtin_shufflevector(v, v, 0, 1, 2, 3, 1, 5, 3, 7);
    v -= Columns{kPart, 0, kPart, 0, 0, 0, 0, 0} *
         __builtin_shufflevector(v, v, 4, 1, 6, 3, 4, 5, 6, 7);
    std::memcpy(x + 8 * vector, &v, sizeof(v));
  }
}

// The smallest scale for 32 values, from keys of the largest and of the largest that is not wide;
// NaN where a value is no number.
inline float smallest_scale(int32_t largest, int32_t largest_other) {
  const float of_wide = float_of(largest & ~7) * (1.0f / 254.0f);
  const float of_others = float_of(largest_other & ~7) * (1.0f / 127.0f);
  float smallest = of_wide > of_others ? of_wide : of_others;
  smallest = smallest < 0x1p103f ? smallest : 0x1p103f;  // kOrigin * s stays finite
  smallest = smallest > 2e-37f ? smallest : 0.0f;        // s / 16 is normal
  return largest < kInfinityBits ? smallest : __builtin_nanf("");
}

// Which of 32 values are wide, and the smallest scale.
template <int kNumWideQuads, bool kBestScale>
void choose_wide(const FloatGroup& values, ByteGroup<kNumWideQuads, kBestScale>& group) {
  QuadKeys keys(values);
  QuadKeys::Lanes next = keys.largest();
  const int32_t largest = next[0];
  for (int32_t& quad : group.wide_quad) {
    quad = next[0] & 7;
    keys.remove(next);
    next = keys.largest();
  }
  group.scale = smallest_scale(largest, next[0]);
}

inline void choose_wide(const FloatGroup& values, MergedBytes& group) {
  using Lanes = QuadKeys::Lanes;
  const auto larger = QuadKeys::larger;
  const auto smaller = [](Lanes a, Lanes b) { return a > b ? b : a; };
  // Keys of columns as QuadKeys has of quads; of those side by side the first and the second.
  Lanes keys[4];
  std::memcpy(keys, values, sizeof(keys));
  for (int32_t pair = 0; pair < 4; ++pair) {
    keys[pair] = (keys[pair] & 0x7ffffff8) | (2 * pair + Lanes{0, 0, 0, 0, 1, 1, 1, 1});
  }
  const Lanes low = larger(keys[0], keys[1]);
  const Lanes high = larger(keys[2], keys[3]);
  Lanes first = larger(low, high);
  Lanes second =
      larger(smaller(low, high), larger(smaller(keys[0], keys[1]), smaller(keys[2], keys[3])));
  const Lanes other = QuadKeys::with_halves_swapped(first);
  second = larger(smaller(first, other), larger(second, QuadKeys::with_halves_swapped(second)));
  first = larger(first, other);
  int32_t largest = 0;
  int32_t largest_second = 0;
  for (int place = 0; place < 4; ++place) {
    group.wide_quad[place] = static_cast<uint8_t>(8 * (first[place] & 7));
    largest = first[place] > largest ? first[place] : largest;
    largest_second = second[place] > largest_second ? second[place] : largest_second;
  }
  group.scale = smallest_scale(largest, largest_second);
}

// The rest of 32 values where they are wide.
template <int kNumWideQuads, bool kBestScale>
void store_rest(const int8_t* rest, ByteGroup<kNumWideQuads, kBestScale>& group) {
  for (int idx = 0; idx < kNumWideQuads; ++idx) {
    std::memcpy(group.rest[idx], rest + 4 * group.wide_quad[idx], sizeof(group.rest[idx]));
  }
}
inline void store_rest(const int8_t* rest, MergedBytes& group) {
  for (int place = 0; place < 4; ++place) {
    group.rest[0][place] = rest[group.wide_quad[place] / 2 + place];
  }
}

// v of 32 values for the group's scale and what is wide.
template <typename Group>
void store_bytes(const FloatGroup& values, Group& group) {
  const GroupIntegers v =
      integers_of(values, group.scale > 0.0f ? 1.0f / group.scale : 0.0f, 254.0f);
  using Bytes = int8_t __attribute__((vector_size(16)));
  int8_t rest[kGroupCols];
  for (int half = 0; half < 2; ++half) {
    I32x16 value = v.half[half];
    value = value < 127 ? value : I32x16{} + 127;
    value = value > -127 ? value : I32x16{} - 127;
    const Bytes value_bytes = __builtin_convertvector(value, Bytes);
    const Bytes rest_bytes = __builtin_convertvector(v.half[half] - value, Bytes);
    std::memcpy(group.values + 16 * half, &value_bytes, sizeof(value_bytes));
    std::memcpy(rest + 16 * half, &rest_bytes, sizeof(rest_bytes));
  }
  store_rest(rest, group);
  if constexpr (kNibblesMix) group.scale *= 1.0f / 16;
  group.offset = offset_of_bytes(columns_of(v).v, group.scale);
}

// Step by step for all groups: while one waits for what its last step made, others go on.
template <InBytes Group>
void store_groups(FloatGroup* values, int32_t num_groups, Group* groups) {
  for (int32_t idx = 0; idx < num_groups; ++idx) {
    if constexpr (kNibblesMix) unmix(values[idx]);
    choose_wide(values[idx], groups[idx]);
  }
  if constexpr (Group::kBestScale) {
    for (int32_t idx = 0; idx < num_groups; ++idx) {
      groups[idx].scale = best_scale(values[idx], groups[idx].scale);
    }
  }
  for (int32_t idx = 0; idx < num_groups; ++idx) store_bytes(values[idx], groups[idx]);
}

}  // namespace
}  // namespace tandem::cpu_experts
