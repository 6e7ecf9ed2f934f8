// Body of rms_norm.h: a CTA a row; a thread keeps to its columns, so that it reads back what it
// wrote itself.
#pragma once

#include "gpu/cuda/kernels/reduce-inl.h"
#include "gpu/cuda/kernels/rms_norm.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

struct RmsNorm {
  using Params = RmsNormParams;
  static constexpr int kMaxThreads = 512, kMinBlocks = 1;
  static simt::LaunchShape launch_shape(const Params& p) {
    const int64_t warps = simt::ceil_div(p.out.cols, 4 * simt::kWarpSize);
    return {.grid_x = p.out.rows,
            .num_threads = static_cast<int32_t>(simt::min_of(kMaxThreads, warps * simt::kWarpSize)),
            .shared_size_bytes = kMaxThreads / simt::kWarpSize * int32_t{sizeof(float)}};
  }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t row = cta.block_x();
    float* x = simt::row_of(p.x, row);
    float squares = 0.0f;
    for (int64_t col = cta.thread_idx(); col < p.out.cols; col += cta.num_threads()) {
      float value = x[col];
      if (p.num_addends > 0) {
        for (int idx = 0; idx < p.num_addends; ++idx)
          value += simt::row_of(p.addends[idx], row)[col];
        x[col] = value;
      }
      squares = simt::multiply_add(value, value, squares);
    }
    const float sum =
        cta_sum(cta, squares, cta.template shared<float>(0, kMaxThreads / simt::kWarpSize));
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(p.out.cols) + p.eps);
    bf16* out = simt::row_of(p.out, row);
    for (int64_t col = cta.thread_idx(); col < p.out.cols; col += cta.num_threads())
      out[col] = simt::narrow(simt::widen(p.weight[col]) * (x[col] * factor));
  }
};

}  // namespace tandem::gpu::cuda
