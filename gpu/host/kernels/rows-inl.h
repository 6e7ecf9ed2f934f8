// Element-wise work on rows, norms, softmax and packing; included once per instruction set. Tails
// go through a padded copy and the same vector operations, so that a value has the same bits
// wherever it stands.
#pragma once

#include "gpu/host/kernels.h"
#include "gpu/host/simd/vec.h"

namespace tandem::gpu::host {
namespace {

void widen(const uint16_t* x, int64_t num, float* out) {
  int64_t idx = 0;
  for (; idx + kLanes <= num; idx += kLanes) store(out + idx, load_bf16(x + idx));
  for (; idx < num; ++idx) {
    const uint32_t word = static_cast<uint32_t>(x[idx]) << 16;
    std::memcpy(out + idx, &word, sizeof word);
  }
}

void narrow(const float* x, int64_t num, uint16_t* out) {
  int64_t idx = 0;
  for (; idx + kLanes <= num; idx += kLanes) store_bf16(out + idx, load(x + idx));
  if (idx < num) {
    float padded[kLanes] = {};
    uint16_t rounded[kLanes];
    std::memcpy(padded, x + idx, static_cast<size_t>(num - idx) * sizeof(float));
    store_bf16(rounded, load(padded));
    std::memcpy(out + idx, rounded, static_cast<size_t>(num - idx) * sizeof(uint16_t));
  }
}

void scale(float* x, int64_t num, float factor) {
  int64_t idx = 0;
  for (; idx + kLanes <= num; idx += kLanes) store(x + idx, load(x + idx) * broadcast(factor));
  for (; idx < num; ++idx) x[idx] *= factor;
}

void add(const float* addend, int64_t num, float* out) {
  int64_t idx = 0;
  for (; idx + kLanes <= num; idx += kLanes) store(out + idx, load(out + idx) + load(addend + idx));
  for (; idx < num; ++idx) out[idx] += addend[idx];
}

// Four vectors of partial sums, joined in one order: depends on the row's length only.
float sum_of_squares(const float* x, int64_t num) {
  F32x sum[4] = {};
  int64_t idx = 0;
  for (; idx + 4 * kLanes <= num; idx += 4 * kLanes) {
    for (int part = 0; part < 4; ++part) {
      const F32x value = load(x + idx + part * kLanes);
      sum[part] = fma(value, value, sum[part]);
    }
  }
  for (; idx < num; idx += kLanes) {
    float padded[kLanes] = {};
    const int64_t left = num - idx < kLanes ? num - idx : kLanes;
    std::memcpy(padded, x + idx, static_cast<size_t>(left) * sizeof(float));
    const F32x value = load(padded);
    sum[0] = fma(value, value, sum[0]);
  }
  return sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
}

void rms_norm(const float* x, const uint16_t* weight, float eps, int64_t num, uint16_t* out) {
  const float mean = sum_of_squares(x, num) / static_cast<float>(num);
  const F32x factor = broadcast(1.0f / __builtin_sqrtf(mean + eps));
  int64_t idx = 0;
  for (; idx + kLanes <= num; idx += kLanes) {
    store_bf16(out + idx, load_bf16(weight + idx) * (load(x + idx) * factor));
  }
  if (idx < num) {
    float padded[kLanes] = {};
    uint16_t padded_weight[kLanes] = {};
    uint16_t result[kLanes];
    std::memcpy(padded, x + idx, static_cast<size_t>(num - idx) * sizeof(float));
    std::memcpy(padded_weight, weight + idx, static_cast<size_t>(num - idx) * sizeof(uint16_t));
    store_bf16(result, load_bf16(padded_weight) * (load(padded) * factor));
    std::memcpy(out + idx, result, static_cast<size_t>(num - idx) * sizeof(uint16_t));
  }
}

inline F32x silu(F32x z) { return z / (broadcast(1.0f) + exp(-z)); }

void swiglu(const float* gate, const float* up, int64_t num, uint16_t* out) {
  int64_t idx = 0;
  for (; idx + kLanes <= num; idx += kLanes) {
    store_bf16(out + idx, silu(load(gate + idx)) * load(up + idx));
  }
  if (idx < num) {
    const size_t left_size_bytes = static_cast<size_t>(num - idx) * sizeof(float);
    float padded_gate[kLanes] = {};
    float padded_up[kLanes] = {};
    uint16_t result[kLanes];
    std::memcpy(padded_gate, gate + idx, left_size_bytes);
    std::memcpy(padded_up, up + idx, left_size_bytes);
    store_bf16(result, silu(load(padded_gate)) * load(padded_up));
    std::memcpy(out + idx, result, static_cast<size_t>(num - idx) * sizeof(uint16_t));
  }
}

float softmax_block(const SoftmaxBlock& block) {
  constexpr int kKeys = 64;
  constexpr int kVecs = kKeys / kLanes;
  const float minus_infinity = -__builtin_inff();
  for (int key = block.num_valid; key < kKeys; ++key) block.scores[key] = minus_infinity;
  F32x largest = broadcast(minus_infinity);
  F32x score[kVecs];
  for (int v = 0; v < kVecs; ++v) {
    score[v] = load(block.scores + v * kLanes) * broadcast(block.scale);
    largest = max(largest, score[v]);
  }
  const float block_maximum = max_of(largest);
  const float old_maximum = *block.maximum;
  const float maximum = old_maximum > block_maximum ? old_maximum : block_maximum;
  F32x total = {};
  for (int v = 0; v < kVecs; ++v) {
    const F32x weight = exp(score[v] - broadcast(maximum));
    store(block.scores + v * kLanes, weight);
    total = total + weight;
  }
  float factor = 1.0f;
  if (old_maximum != maximum) {
    alignas(64) float lanes[kLanes];
    store(lanes, exp(broadcast(old_maximum - maximum)));
    factor = lanes[0];
  }
  *block.maximum = maximum;
  *block.sum = *block.sum * factor + sum_of(total);
  return factor;
}

#if defined(__AVX2__)
// Transposes 8 rows of 8 32-bit pairs: line `pair` of the panel gets the pair of each row.
inline void transpose_8x8(const uint16_t* src, int64_t row_stride, uint16_t* panel) {
  __m256i row[8];
  for (int r = 0; r < 8; ++r) {
    row[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(src + r * row_stride));
  }
  __m256i two[8];
  for (int r = 0; r < 8; r += 2) {
    two[r] = _mm256_unpacklo_epi32(row[r], row[r + 1]);
    two[r + 1] = _mm256_unpackhi_epi32(row[r], row[r + 1]);
  }
  __m256i four[8];
  for (int r = 0; r < 8; r += 4) {
    four[r] = _mm256_unpacklo_epi64(two[r], two[r + 2]);
    four[r + 1] = _mm256_unpackhi_epi64(two[r], two[r + 2]);
    four[r + 2] = _mm256_unpacklo_epi64(two[r + 1], two[r + 3]);
    four[r + 3] = _mm256_unpackhi_epi64(two[r + 1], two[r + 3]);
  }
  for (int pair = 0; pair < 4; ++pair) {
    const __m256i low = _mm256_permute2x128_si256(four[pair], four[pair + 4], 0x20);
    const __m256i high = _mm256_permute2x128_si256(four[pair], four[pair + 4], 0x31);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + pair * 32), low);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(panel + (pair + 4) * 32), high);
  }
}
#endif

void pack_panel(
    const uint16_t* src, int64_t row_stride, int num_rows, int64_t num_cols, uint16_t* panel) {
  int64_t col_idx = 0;
#if defined(__AVX2__)
  if (num_rows == kPanelRows) {
    for (; col_idx + 16 <= num_cols; col_idx += 16) {
      transpose_8x8(src + col_idx, row_stride, panel + col_idx * kPanelRows);
      transpose_8x8(src + col_idx + 8 * row_stride, row_stride, panel + col_idx * kPanelRows + 16);
    }
  }
#endif
  for (; col_idx < num_cols; col_idx += 2) {
    uint16_t* line = panel + col_idx * kPanelRows;
    for (int r = 0; r < kPanelRows; ++r) {
      const uint16_t* pair = src + r * row_stride + col_idx;
      line[2 * r] = r < num_rows ? pair[0] : uint16_t{0};
      line[2 * r + 1] = r < num_rows && col_idx + 1 < num_cols ? pair[1] : uint16_t{0};
    }
  }
}

void pack_row_pair(const uint16_t* even,
                   const uint16_t* odd,
                   int64_t num_cols,
                   uint16_t* panels,
                   int64_t panel_stride) {
  for (int64_t col_idx = 0; col_idx < num_cols; col_idx += kPanelRows) {
    uint16_t* line = panels + col_idx / kPanelRows * panel_stride;
    const int64_t left = num_cols - col_idx;
    if (left >= kPanelRows && odd != nullptr) {
      for (int lane = 0; lane < kPanelRows; ++lane) {
        const uint32_t pair = static_cast<uint32_t>(even[col_idx + lane]) |
                              (static_cast<uint32_t>(odd[col_idx + lane]) << 16);
        std::memcpy(line + 2 * lane, &pair, sizeof pair);
      }
      continue;
    }
    for (int lane = 0; lane < kPanelRows; ++lane) {
      line[2 * lane] = lane < left ? even[col_idx + lane] : uint16_t{0};
      line[2 * lane + 1] = lane < left && odd != nullptr ? odd[col_idx + lane] : uint16_t{0};
    }
  }
}

}  // namespace
}  // namespace tandem::gpu::host
