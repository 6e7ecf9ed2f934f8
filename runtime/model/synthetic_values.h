// Random tensor values by position: value i of a tensor depends on its key and i alone, so that any
// thread can write any part of a checkpoint.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "runtime/base/bf16.h"

namespace tandem {

// Uniform on [center - amplitude, center + amplitude].
struct ValueRange {
  float center = 0.0f;
  float amplitude = 1.0f;
};

uint64_t synthetic_key(uint64_t seed, std::string_view tensor_name);

// Part of a tensor that begins at its byte `offset_bytes`, a multiple of 8.
void fill_synthetic_bits(std::span<std::byte> out, uint64_t key, int64_t offset_bytes);
void fill_synthetic_bf16(std::span<bf16> out, uint64_t key, int64_t offset_bytes, ValueRange range);
void fill_synthetic_f32(std::span<float> out, uint64_t key, int64_t offset_bytes, ValueRange range);

}  // namespace tandem
