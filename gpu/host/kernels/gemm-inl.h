// Products of rows with panels (gpu/host/kernels.h), included once per instruction set.
#pragma once

#include "gpu/host/kernels.h"
#include "gpu/host/simd/vec.h"

namespace tandem::gpu::host {
namespace {

constexpr int kVecsAPanel = kPanelRows / kLanes;
constexpr int kMaxRowsATile = kMaxAccumulators / kVecsAPanel / (kLanes == 16 ? 4 : 1);

// Panels that are read side by side: as many as the accumulators allow, to have several chains and
// several streams of memory in flight.
constexpr int panels_a_tile(int num_rows) {
  const int limit = kMaxAccumulators / kVecsAPanel / num_rows;
  return limit >= 4 ? 4 : limit >= 2 ? 2 : 1;
}

// Asks for the weights of column k + 64 of each panel; behind the last column, for the first ones
// of the tile that comes next. Without it tiles of few rows wait for memory.
constexpr int64_t kPrefetchCols = 64;
template <int kPanels>
inline void prefetch_weights(const uint16_t* panels,
                             int64_t panel_stride,
                             int64_t k,
                             int64_t num_k) {
  const int64_t ahead = k + kPrefetchCols;
  const uint16_t* line = panels + ahead * kPanelRows;
  if (ahead >= num_k) line += kPanels * panel_stride - num_k * kPanelRows;
  for (int p = 0; p < kPanels; ++p) __builtin_prefetch(line + p * panel_stride);
}

// One tile with rank-2 updates: element (r, lane) adds x[r, k] * w[k], then x[r, k+1] * w[k+1].
template <int kRows, int kPanels>
void tile_f32(const Gemm<float>& gemm, int64_t row_idx, int64_t panel_idx) {
  constexpr int kVecs = kPanels * kVecsAPanel;
  const float* x = gemm.x + row_idx * gemm.x_stride;
  const uint16_t* panels = gemm.panels + panel_idx * gemm.panel_stride;
  float* out = gemm.out + row_idx * gemm.out_stride + panel_idx * kPanelRows;
  const int64_t x_stride = gemm.x_stride;
  const int64_t panel_stride = gemm.panel_stride;

  F32x sum[kRows][kVecs];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) {
      sum[r][v] = gemm.accumulate ? load(out + r * gemm.out_stride + v * kLanes) : F32x{};
    }
  }
  const auto pairs_of = [&](const uint16_t* base, int64_t k, int v) {
    return load_pairs(base + (v / kVecsAPanel) * panel_stride + k * kPanelRows +
                      (v % kVecsAPanel) * 2 * kLanes);
  };
  const int64_t num_paired = gemm.num_k & ~int64_t{1};
  for (int64_t k = 0; k < num_paired; k += 2) {
    prefetch_weights<kPanels>(panels, panel_stride, k, gemm.num_k);
    F32x even[kVecs];
    for (int v = 0; v < kVecs; ++v) even[v] = even_of(pairs_of(panels, k, v));
    for (int r = 0; r < kRows; ++r) {
      const F32x factor = broadcast(x[r * x_stride + k]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = fma_onto(sum[r][v], factor, even[v]);
    }
    // The same address, hidden from the compiler: it then loads the pairs once more, where keeping
    // them would cost registers that the sums need.
    const uint16_t* again = panels;
    if constexpr (kRows * kVecs > kMaxAccumulators / 2) asm("" : "+r"(again));
    F32x odd[kVecs];
    for (int v = 0; v < kVecs; ++v) odd[v] = odd_of(pairs_of(again, k, v));
    for (int r = 0; r < kRows; ++r) {
      const F32x factor = broadcast(x[r * x_stride + k + 1]);
      for (int v = 0; v < kVecs; ++v) sum[r][v] = fma_onto(sum[r][v], factor, odd[v]);
    }
  }
  if (num_paired < gemm.num_k) {
    for (int v = 0; v < kVecs; ++v) {
      const F32x even = even_of(pairs_of(panels, num_paired, v));
      for (int r = 0; r < kRows; ++r) {
        sum[r][v] = fma_onto(sum[r][v], broadcast(x[r * x_stride + num_paired]), even);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kVecs; ++v) store(out + r * gemm.out_stride + v * kLanes, sum[r][v]);
  }
}

#if defined(__AVX512BF16__)
// The same with one dot-product instruction per pair of columns.
template <int kRows, int kPanels>
void tile_bf16(const Gemm<uint16_t>& gemm, int64_t row_idx, int64_t panel_idx) {
  const uint16_t* x = gemm.x + row_idx * gemm.x_stride;
  const uint16_t* panels = gemm.panels + panel_idx * gemm.panel_stride;
  float* out = gemm.out + row_idx * gemm.out_stride + panel_idx * kPanelRows;
  const int64_t x_stride = gemm.x_stride;
  const int64_t panel_stride = gemm.panel_stride;

  __m512 sum[kRows][kPanels];
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      sum[r][p] = gemm.accumulate ? _mm512_loadu_ps(out + r * gemm.out_stride + p * kPanelRows)
                                  : _mm512_setzero_ps();
    }
  }
  const int64_t num_k = gemm.num_k;
  for (int64_t k = 0; k < num_k; k += 2) {
    if constexpr (kRows <= 4) prefetch_weights<kPanels>(panels, panel_stride, k, num_k);
    __m512bh weight[kPanels];
    for (int p = 0; p < kPanels; ++p) {
      const uint16_t* line = panels + p * panel_stride + k * kPanelRows;
      weight[p] = reinterpret_cast<__m512bh>(_mm512_loadu_si512(line));
    }
    for (int r = 0; r < kRows; ++r) {
      int32_t pair;
      std::memcpy(&pair, x + r * x_stride + k, sizeof pair);
      const __m512bh factor = reinterpret_cast<__m512bh>(_mm512_set1_epi32(pair));
      for (int p = 0; p < kPanels; ++p) {
        sum[r][p] = _mm512_dpbf16_ps(sum[r][p], factor, weight[p]);
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int p = 0; p < kPanels; ++p) {
      _mm512_storeu_ps(out + r * gemm.out_stride + p * kPanelRows, sum[r][p]);
    }
  }
}
template <int kRows, int kPanels>
void tile_of(const Gemm<uint16_t>& gemm, int64_t row_idx, int64_t panel_idx) {
  tile_bf16<kRows, kPanels>(gemm, row_idx, panel_idx);
}
#endif
template <int kRows, int kPanels>
void tile_of(const Gemm<float>& gemm, int64_t row_idx, int64_t panel_idx) {
  tile_f32<kRows, kPanels>(gemm, row_idx, panel_idx);
}

// All row blocks against `num_panels` panels from panel_idx on; the blocks differ by one row at
// most.
template <int kRows, typename X>
void row_block(const Gemm<X>& gemm, int64_t row_idx, int64_t panel_idx, int64_t num_panels) {
  constexpr int kPanels = panels_a_tile(kRows);
  const int64_t end = panel_idx + num_panels;
  for (; panel_idx + kPanels <= end; panel_idx += kPanels) {
    tile_of<kRows, kPanels>(gemm, row_idx, panel_idx);
  }
  if constexpr (kPanels > 2) {
    if (panel_idx + 2 <= end) {
      tile_of<kRows, 2>(gemm, row_idx, panel_idx);
      panel_idx += 2;
    }
  }
  if constexpr (kPanels > 1) {
    if (panel_idx < end) tile_of<kRows, 1>(gemm, row_idx, panel_idx);
  }
}

template <int kRows, typename X>
void dispatch_rows(
    const Gemm<X>& gemm, int num_rows, int64_t row_idx, int64_t panel_idx, int64_t num_panels) {
  if (num_rows == kRows) {
    row_block<kRows>(gemm, row_idx, panel_idx, num_panels);
  } else if constexpr (kRows > 1) {
    dispatch_rows<kRows - 1>(gemm, num_rows, row_idx, panel_idx, num_panels);
  }
}

template <typename X>
void gemm_panels(const Gemm<X>& gemm) {
  if (gemm.num_rows <= 0) return;
  const int64_t num_blocks = (gemm.num_rows + kMaxRowsATile - 1) / kMaxRowsATile;
  const int64_t rows_a_block = gemm.num_rows / num_blocks;
  const int64_t num_larger = gemm.num_rows % num_blocks;
  const int64_t step = panels_a_tile(static_cast<int>(rows_a_block + (num_larger > 0 ? 1 : 0)));
  for (int64_t panel_idx = 0; panel_idx < gemm.num_panels; panel_idx += step) {
    const int64_t left = gemm.num_panels - panel_idx;
    int64_t row_idx = 0;
    for (int64_t block_idx = 0; block_idx < num_blocks; ++block_idx) {
      const int64_t num_rows = rows_a_block + (block_idx < num_larger ? 1 : 0);
      dispatch_rows<kMaxRowsATile>(gemm, static_cast<int>(num_rows), row_idx, panel_idx,
                                   left < step ? left : step);
      row_idx += num_rows;
    }
  }
}

}  // namespace
}  // namespace tandem::gpu::host
