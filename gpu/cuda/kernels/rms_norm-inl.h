// Body of rms_norm.h: a CTA a row; a thread keeps to its columns, four beside each other at a time,
// so that it reads back what it wrote itself. A row of a decode step is all latency: its loads are
// as wide as their addresses allow, and those of kUnroll turns are on their way together (an addend
// may come from the host).
#pragma once

#include "gpu/cuda/kernels/reduce-inl.h"
#include "gpu/cuda/kernels/rms_norm.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

struct RmsNorm {
  using Params = RmsNormParams;
  static constexpr int kMaxThreads = 512, kMinBlocks = 1;
  static constexpr int kWidth = 4;   // columns of a load
  static constexpr int kUnroll = 4;  // times kMaxThreads: a row of 8192 in one go

  static simt::LaunchShape launch_shape(const Params& p) {
    const int64_t warps = simt::ceil_div(p.out.cols, kWidth * simt::kWarpSize);
    return {.grid_x = p.out.rows,
            .num_threads = static_cast<int32_t>(simt::min_of(kMaxThreads, warps * simt::kWarpSize)),
            .shared_size_bytes = kMaxThreads / simt::kWarpSize * int32_t{sizeof(float)}};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t row = cta.block_x();
    const int64_t cols = p.out.cols;
    const int64_t stride = int64_t{kWidth} * cta.num_threads();
    float* x = simt::row_of(p.x, row);
    float squares = 0.0f;
    for (int64_t begin = int64_t{kWidth} * cta.thread_idx(); begin < cols;
         begin += kUnroll * stride) {
      float sums[kUnroll][kWidth];
      TANDEM_UNROLL
      for (int u = 0; u < kUnroll; ++u) load(cta, x, begin + u * stride, cols, sums[u]);
      TANDEM_UNROLL
      for (int idx = 0; idx < kMaxAddends; ++idx) {
        if (idx >= p.addends.num) continue;
        const float* addend = simt::row_of(p.addends.matrices[idx], row);
        float values[kUnroll][kWidth];
        TANDEM_UNROLL
        for (int u = 0; u < kUnroll; ++u) load(cta, addend, begin + u * stride, cols, values[u]);
        TANDEM_UNROLL
        for (int u = 0; u < kUnroll; ++u) {
          TANDEM_UNROLL
          for (int i = 0; i < kWidth; ++i) sums[u][i] += values[u][i];
        }
      }
      TANDEM_UNROLL
      for (int u = 0; u < kUnroll; ++u) {
        if (p.addends.num > 0) store(cta, x, begin + u * stride, cols, sums[u]);
        TANDEM_UNROLL
        for (int i = 0; i < kWidth; ++i)
          squares = simt::multiply_add(sums[u][i], sums[u][i], squares);
      }
    }
    const float sum =
        cta_sum(cta, squares, cta.template shared<float>(0, kMaxThreads / simt::kWarpSize));
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(cols) + p.eps);
    bf16* out = simt::row_of(p.out, row);
    for (int64_t begin = int64_t{kWidth} * cta.thread_idx(); begin < cols;
         begin += kUnroll * stride) {
      TANDEM_UNROLL
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t col = begin + u * stride;
        float values[kWidth];
        float weights[kWidth];
        load(cta, x, col, cols, values);
        load_weights(cta, p.weight, col, cols, weights);
        TANDEM_UNROLL
        for (int i = 0; i < kWidth; ++i) values[i] = weights[i] * (values[i] * factor);
        store(cta, out, col, cols, values);
      }
    }
  }

 private:
  // Columns col .. col + 3 of a row, zeros behind its end.
  template <typename Cta>
  static TANDEM_DEVICE void load(
      const Cta& cta, const float* row, int64_t col, int64_t cols, float (&values)[kWidth]) {
    if (col + kWidth <= cols && simt::is_multiple_of<16>(row + col)) {
      const simt::Words4 words = cta.load16(row + col);
      TANDEM_UNROLL
      for (int i = 0; i < kWidth; ++i) values[i] = simt::float_of_bits(words.w[i]);
      return;
    }
    TANDEM_UNROLL
    for (int i = 0; i < kWidth; ++i) values[i] = col + i < cols ? row[col + i] : 0.0f;
  }
  template <typename Cta>
  static TANDEM_DEVICE void load_weights(
      const Cta& cta, const bf16* row, int64_t col, int64_t cols, float (&values)[kWidth]) {
    if (col + kWidth <= cols && simt::is_multiple_of<8>(row + col)) {
      const simt::Words2 words = cta.load8_streamed(row + col);
      TANDEM_UNROLL
      for (int i = 0; i < kWidth / 2; ++i) {
        values[2 * i] = simt::low_of(words.w[i]);
        values[2 * i + 1] = simt::high_of(words.w[i]);
      }
      return;
    }
    TANDEM_UNROLL
    for (int i = 0; i < kWidth; ++i) values[i] = col + i < cols ? simt::widen(row[col + i]) : 0.0f;
  }
  template <typename Cta>
  static TANDEM_DEVICE void store(
      const Cta& cta, float* row, int64_t col, int64_t cols, const float (&values)[kWidth]) {
    if (col + kWidth <= cols && simt::is_multiple_of<16>(row + col)) {
      cta.store16(row + col, {{simt::bits_of_float(values[0]), simt::bits_of_float(values[1]),
                               simt::bits_of_float(values[2]), simt::bits_of_float(values[3])}});
      return;
    }
    TANDEM_UNROLL
    for (int i = 0; i < kWidth; ++i)
      if (col + i < cols) row[col + i] = values[i];
  }
  template <typename Cta>
  static TANDEM_DEVICE void store(
      const Cta& cta, bf16* row, int64_t col, int64_t cols, const float (&values)[kWidth]) {
    if (col + kWidth <= cols && simt::is_multiple_of<8>(row + col)) {
      cta.store8(row + col, {{simt::narrow_pair(values[0], values[1]),
                              simt::narrow_pair(values[2], values[3])}});
      return;
    }
    TANDEM_UNROLL
    for (int i = 0; i < kWidth; ++i)
      if (col + i < cols) row[col + i] = simt::narrow(values[i]);
  }
};

}  // namespace tandem::gpu::cuda
