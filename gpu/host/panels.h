// A BF16 matrix in panels (gpu/host/kernels.h): what load_linear and load_kv_b keep.
#pragma once

#include <cstdint>
#include <span>

#include "gpu/host/host_memory.h"
#include "gpu/host/kernels.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::gpu::host {

struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

// Part `part_idx` of [0, num_items) cut in `num_parts`: packing and products use the same cut, so
// that each worker reads the pages that it placed.
inline Range part_of(int64_t num_items, int part_idx, int num_parts) {
  return {num_items * part_idx / num_parts, num_items * (part_idx + 1) / num_parts};
}

inline int64_t ceil_div(int64_t num, int64_t divisor) { return (num + divisor - 1) / divisor; }
inline int64_t round_up(int64_t num, int64_t multiple) {
  return ceil_div(num, multiple) * multiple;
}

inline const uint16_t* bits_of(const bf16* x) { return reinterpret_cast<const uint16_t*>(x); }
inline uint16_t* bits_of(bf16* x) { return reinterpret_cast<uint16_t*>(x); }

// Elements of a panel of `num_cols` columns.
inline int64_t panel_stride_of(int64_t num_cols) { return round_up(num_cols, 2) * kPanelRows; }
inline int64_t num_panels_of(int64_t num_rows) { return ceil_div(num_rows, kPanelRows); }

class PanelMatrix {
 public:
  PanelMatrix() = default;
  // The rows of all `matrices` (same columns) one after the other, packed on all workers.
  PanelMatrix(std::span<const MatrixView<const bf16>> matrices,
              const Kernels& kernels,
              WorkerPool& pool);

  [[nodiscard]] const uint16_t* panel(int64_t panel_idx) const {
    return memory_.as<const uint16_t>() + panel_idx * panel_stride();
  }
  [[nodiscard]] int64_t panel_stride() const { return panel_stride_of(num_cols_); }
  [[nodiscard]] int64_t num_panels() const { return num_panels_of(num_rows_); }
  [[nodiscard]] int64_t num_rows() const { return num_rows_; }
  [[nodiscard]] int64_t num_cols() const { return num_cols_; }
  [[nodiscard]] size_t size_bytes() const { return memory_.size_bytes(); }

 private:
  int64_t num_rows_ = 0;
  int64_t num_cols_ = 0;
  HostMemory memory_;
};

}  // namespace tandem::gpu::host
