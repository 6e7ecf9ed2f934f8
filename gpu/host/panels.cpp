#include "gpu/host/panels.h"

#include <cstring>
#include <vector>

#include "runtime/base/check.h"

namespace tandem::gpu::host {
namespace {

const bf16* row_of(std::span<const MatrixView<const bf16>> matrices, int64_t row_idx) {
  for (const MatrixView<const bf16>& matrix : matrices) {
    if (row_idx < matrix.rows) return matrix.data + row_idx * matrix.row_stride;
    row_idx -= matrix.rows;
  }
  return nullptr;
}

// A panel whose 16 rows do not lie one stride apart (a seam, or the end) is gathered first.
void pack(std::span<const MatrixView<const bf16>> matrices,
          int64_t first_row,
          int64_t num_rows,
          const Kernels& kernels,
          std::vector<bf16>& gathered,
          uint16_t* panel) {
  const int64_t num_cols = matrices[0].cols;
  const bf16* first = row_of(matrices, first_row);
  const int64_t stride =
      num_rows > 1 ? row_of(matrices, first_row + 1) - first : matrices[0].row_stride;
  bool regular = stride >= 0;
  for (int64_t row = 1; row < num_rows; ++row) {
    regular = regular && row_of(matrices, first_row + row) == first + row * stride;
  }
  if (regular) {
    kernels.pack_panel(bits_of(first), stride, static_cast<int>(num_rows), num_cols, panel);
    return;
  }
  gathered.resize(static_cast<size_t>(num_rows * num_cols));
  for (int64_t row = 0; row < num_rows; ++row) {
    std::memcpy(gathered.data() + row * num_cols, row_of(matrices, first_row + row),
                static_cast<size_t>(num_cols) * sizeof(bf16));
  }
  kernels.pack_panel(bits_of(gathered.data()), num_cols, static_cast<int>(num_rows), num_cols,
                     panel);
}

}  // namespace

PanelMatrix::PanelMatrix(std::span<const MatrixView<const bf16>> matrices,
                         const Kernels& kernels,
                         WorkerPool& pool) {
  TANDEM_CHECK(!matrices.empty(), "no matrix to pack");
  num_cols_ = matrices[0].cols;
  for (const MatrixView<const bf16>& matrix : matrices) {
    TANDEM_CHECK(matrix.cols == num_cols_, "matrices of one product differ in columns");
    num_rows_ += matrix.rows;
  }
  TANDEM_CHECK(num_rows_ > 0 && num_cols_ > 0, "an empty matrix");
  memory_ = HostMemory(static_cast<size_t>(num_panels() * panel_stride()) * sizeof(bf16));
  pool.run([&](const WorkerPool::Worker& worker) {
    std::vector<bf16> gathered;
    const Range range = part_of(num_panels(), worker.worker_idx, pool.num_workers());
    for (int64_t panel_idx = range.begin; panel_idx < range.end; ++panel_idx) {
      const int64_t first_row = panel_idx * kPanelRows;
      const int64_t rows = std::min<int64_t>(kPanelRows, num_rows_ - first_row);
      pack(matrices, first_row, rows, kernels, gathered,
           memory_.as<uint16_t>() + panel_idx * panel_stride());
    }
  });
}

}  // namespace tandem::gpu::host
