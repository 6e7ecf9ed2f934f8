// Bodies of rows.h: a thread a column, grid (rows, columns / kRowThreads).
#pragma once

#include "gpu/cuda/kernels/rows.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

inline constexpr int kRowThreads = 256;

// What the bodies share; kOut is the matrix of P that a thread a column covers.
template <typename P, auto kOut>
struct ByColumns {
  using Params = P;
  static constexpr int kMaxThreads = kRowThreads, kMinBlocks = 1;
  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = (p.*kOut).rows,
            .grid_y = static_cast<int32_t>(simt::ceil_div((p.*kOut).cols, kRowThreads)),
            .num_threads = kRowThreads};
  }
};

template <typename Cta>
TANDEM_DEVICE int64_t column_of(const Cta& cta) {
  return int64_t{cta.block_y()} * kRowThreads + cta.thread_idx();
}

struct Embed : ByColumns<EmbedParams, &EmbedParams::residual> {
  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t col = column_of(cta);
    if (col >= p.residual.cols) return;
    const int32_t token_id = p.token_ids[cta.block_x()];
    simt::row_of(p.residual, cta.block_x())[col] =
        simt::widen(simt::row_of(p.table, token_id)[col]);
  }
};

struct GatherRows : ByColumns<GatherRowsParams, &GatherRowsParams::out> {
  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t col = column_of(cta);
    if (col >= p.out.cols) return;
    simt::row_of(p.out, cta.block_x())[col] = simt::row_of(p.x, p.row_idx[cta.block_x()])[col];
  }
};

struct Add : ByColumns<AddParams, &AddParams::x> {
  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t row = cta.block_x();
    const int64_t col = column_of(cta);
    if (col >= p.x.cols) return;
    float value = simt::row_of(p.x, row)[col];
    for (int idx = 0; idx < p.addends.num; ++idx)
      value += simt::row_of(p.addends.matrices[idx], row)[col];
    simt::row_of(p.x, row)[col] = value;
  }
};

struct Swiglu : ByColumns<SwigluParams, &SwigluParams::out> {
  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const int64_t col = column_of(cta);
    if (col >= p.out.cols) return;
    const float* row = simt::row_of(p.gate_up, cta.block_x());
    simt::row_of(p.out, cta.block_x())[col] =
        simt::narrow(simt::silu(row[col]) * row[p.out.cols + col]);
  }
};

}  // namespace tandem::gpu::cuda
