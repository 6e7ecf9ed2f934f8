// RoPE on interleaved pairs (model/spec.md equations 5 and 6).
#pragma once

#include <cmath>
#include <cstdint>

namespace tandem::gpu::host {

struct Rotation {
  float cos;
  float sin;
};

// The angle is the FP32 product, as in the references; its cosine and sine are as good as double.
inline Rotation rotation_at(int32_t position, float frequency, float magnitude) {
  const float angle = static_cast<float>(position) * frequency;
  return {static_cast<float>(std::cos(static_cast<double>(angle))) * magnitude,
          static_cast<float>(std::sin(static_cast<double>(angle))) * magnitude};
}

struct RotatedPair {
  float even;
  float odd;
};

inline RotatedPair rotate(float even, float odd, Rotation rotation) {
  return {even * rotation.cos - odd * rotation.sin, odd * rotation.cos + even * rotation.sin};
}

}  // namespace tandem::gpu::host
