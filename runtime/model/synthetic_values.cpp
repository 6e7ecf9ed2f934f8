#include "runtime/model/synthetic_values.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/check.h"

namespace tandem {

namespace {

constexpr int64_t kStepBytes = 8;  // what one hash gives

// The finaliser of SplitMix64: every input bit moves every output bit.
uint64_t mix(uint64_t word) {
  word = (word ^ (word >> 30)) * 0xbf58476d1ce4e5b9u;
  word = (word ^ (word >> 27)) * 0x94d049bb133111ebu;
  return word ^ (word >> 31);
}

uint64_t random_word(uint64_t key, uint64_t step_idx) {
  return mix(key + (step_idx + 1) * 0x9e3779b97f4a7c15u);
}

uint64_t first_step(int64_t offset_bytes) {
  TANDEM_CHECK(offset_bytes % kStepBytes == 0, "parts begin at multiples of 8 bytes");
  return static_cast<uint64_t>(offset_bytes / kStepBytes);
}

}  // namespace

uint64_t synthetic_key(uint64_t seed, std::string_view tensor_name) {
  uint64_t key = mix(seed + 0x9e3779b97f4a7c15u);
  for (const char letter : tensor_name) {
    key = (key ^ static_cast<unsigned char>(letter)) * 0x100000001b3u;  // FNV-1a
  }
  return mix(key);
}

void fill_synthetic_bits(std::span<std::byte> out, uint64_t key, int64_t offset_bytes) {
  uint64_t step_idx = first_step(offset_bytes);
  for (size_t byte_idx = 0; byte_idx < out.size(); byte_idx += kStepBytes) {
    const uint64_t word = random_word(key, step_idx++);
    std::memcpy(out.data() + byte_idx, &word, std::min<size_t>(kStepBytes, out.size() - byte_idx));
  }
}

void fill_synthetic_bf16(std::span<bf16> out,
                         uint64_t key,
                         int64_t offset_bytes,
                         ValueRange range) {
  constexpr size_t kValuesPerStep = kStepBytes / sizeof(bf16);
  const float factor = range.amplitude / 32768.0f;
  uint64_t step_idx = first_step(offset_bytes);
  for (size_t begin = 0; begin < out.size(); begin += kValuesPerStep) {
    uint64_t word = random_word(key, step_idx++);
    const size_t num_values = std::min(kValuesPerStep, out.size() - begin);
    for (size_t value_idx = 0; value_idx < num_values; ++value_idx, word >>= 16) {
      out[begin + value_idx] =
          bf16(range.center + factor * static_cast<float>(static_cast<int16_t>(word)));
    }
  }
}

void fill_synthetic_f32(std::span<float> out,
                        uint64_t key,
                        int64_t offset_bytes,
                        ValueRange range) {
  constexpr size_t kValuesPerStep = kStepBytes / sizeof(float);
  const float factor = range.amplitude / 2147483648.0f;
  uint64_t step_idx = first_step(offset_bytes);
  for (size_t begin = 0; begin < out.size(); begin += kValuesPerStep) {
    uint64_t word = random_word(key, step_idx++);
    const size_t num_values = std::min(kValuesPerStep, out.size() - begin);
    for (size_t value_idx = 0; value_idx < num_values; ++value_idx, word >>= 32) {
      out[begin + value_idx] =
          range.center + factor * static_cast<float>(static_cast<int32_t>(word));
    }
  }
}

}  // namespace tandem
