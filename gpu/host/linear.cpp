#include "gpu/host/linear.h"

#include <algorithm>
#include <cstring>
#include <type_traits>

#include "runtime/base/check.h"

namespace tandem::gpu::host {
namespace {

// Rows of a block begin a line later than a power of two, or all would meet in one cache set.
constexpr int64_t kRowPadElements = 32;
// Below this a product is over before other workers have heard of it.
constexpr int64_t kInlineMultiplications = 1 << 15;

int64_t x_block_elements(const Kernels& kernels) {
  return int64_t{kernels.block_rows} * (kernels.block_cols + kRowPadElements);
}

// Columns of x at a time. Few rows: what half the L1 cache keeps, since every panel reads all of it
// again. Many: what the L2 cache keeps.
template <typename X>
int64_t cols_a_block(const Kernels& kernels, int64_t num_rows, int64_t num_cols) {
  constexpr int64_t kRowsSizeBytes = 16 << 10;
  const int64_t fit = kRowsSizeBytes / static_cast<int64_t>(sizeof(X)) / num_rows & ~int64_t{31};
  return std::min(round_up(num_cols, 2), std::max<int64_t>(kernels.block_cols, fit));
}

// How many parts to cut the rows in, so that the slowest worker has least to do.
int row_parts(int64_t num_rows, int64_t num_panels, int num_workers) {
  int best_parts = 1;
  int64_t best_work = INT64_MAX;
  for (int parts = 1; parts <= num_workers; ++parts) {
    if (num_workers % parts != 0 || num_rows < int64_t{48} * parts) continue;
    const int64_t work = ceil_div(num_rows, parts) * ceil_div(num_panels, num_workers / parts);
    if (work < best_work - best_work / 32) {
      best_work = work;
      best_parts = parts;
    }
  }
  return best_parts;
}

void convert(const Kernels& kernels, const bf16* x, int64_t num, float* out) {
  kernels.widen(bits_of(x), num, out);
}
void convert(const Kernels&, const bf16* x, int64_t num, uint16_t* out) {
  std::memcpy(out, x, static_cast<size_t>(num) * sizeof(bf16));
}

}  // namespace

struct LinearProduct::Task {
  MatrixView<const bf16> x;
  const PanelMatrix* weight;
  LinearOut mode;
  MatrixView<float> float_out;
  MatrixView<bf16> bf16_out;
};

LinearProduct::LinearProduct(const Kernels& kernels, WorkerPool& pool)
    : kernels_(kernels), pool_(pool) {
  const size_t x_size_bytes = static_cast<size_t>(x_block_elements(kernels)) * sizeof(float);
  const size_t sums_size_bytes =
      static_cast<size_t>(int64_t{kernels.block_rows} * kernels.block_panels * kPanelRows) *
      sizeof(float);
  for (int worker = 0; worker < pool.num_workers(); ++worker) {
    scratch_.push_back({HostMemory(x_size_bytes), HostMemory(sums_size_bytes)});
  }
}

void LinearProduct::run(MatrixView<const bf16> x,
                        const PanelMatrix& weight,
                        MatrixView<float> out,
                        bool add) {
  TANDEM_CHECK(out.rows == x.rows && out.cols == weight.num_rows(), "linear: shape of out");
  run({x, &weight, add ? LinearOut::kAddFloat : LinearOut::kFloat, out, {}});
}

void LinearProduct::run(MatrixView<const bf16> x, const PanelMatrix& weight, MatrixView<bf16> out) {
  TANDEM_CHECK(out.rows == x.rows && out.cols == weight.num_rows(), "linear: shape of out");
  run({x, &weight, LinearOut::kBf16, {}, out});
}

void LinearProduct::run(const Task& task) {
  TANDEM_CHECK(task.x.cols == task.weight->num_cols(), "linear: columns of x");
  if (task.x.rows == 0) return;
  if (task.x.rows * task.x.cols * task.weight->num_rows() <= kInlineMultiplications) {
    run_part(task, 0, 1);
    return;
  }
  const auto body = [&](const WorkerPool::Worker& worker) {
    run_part(task, worker.worker_idx, pool_.num_workers());
  };
  pool_.run(body);
}

void LinearProduct::run_part(const Task& task, int worker_idx, int num_workers) const {
  const int64_t num_panels = task.weight->num_panels();
  const int parts = row_parts(task.x.rows, num_panels, num_workers);
  const Range rows = part_of(task.x.rows, worker_idx % parts, parts);
  const Range panels = part_of(num_panels, worker_idx / parts, num_workers / parts);

  const int64_t num_row_blocks = ceil_div(rows.end - rows.begin, kernels_.block_rows);
  for (int64_t block_idx = 0; block_idx < num_row_blocks; ++block_idx) {
    const Range block = part_of(rows.end - rows.begin, static_cast<int>(block_idx),
                                static_cast<int>(num_row_blocks));
    for (int64_t panel = panels.begin; panel < panels.end; panel += kernels_.block_panels) {
      run_block(task, {rows.begin + block.begin, rows.begin + block.end},
                {panel, std::min(panels.end, panel + kernels_.block_panels)}, worker_idx);
    }
  }
}

void LinearProduct::run_block(const Task& task, Range rows, Range panels, int worker_idx) const {
  const Scratch& scratch = scratch_[static_cast<size_t>(worker_idx)];
  float* sums = scratch.sums.as<float>();
  if (kernels_.gemm_bf16 != nullptr) {
    accumulate(task, rows, panels, scratch.x_block.as<uint16_t>(), sums);
  } else {
    accumulate(task, rows, panels, scratch.x_block.as<float>(), sums);
  }
  const int64_t sums_stride = (panels.end - panels.begin) * kPanelRows;
  const int64_t first_col = panels.begin * kPanelRows;
  const int64_t num_cols = std::min(panels.end * kPanelRows, task.weight->num_rows()) - first_col;
  for (int64_t row_idx = rows.begin; row_idx < rows.end; ++row_idx) {
    const float* row = sums + (row_idx - rows.begin) * sums_stride;
    switch (task.mode) {
      case LinearOut::kFloat:
        std::memcpy(&task.float_out(row_idx, first_col), row,
                    static_cast<size_t>(num_cols) * sizeof(float));
        break;
      case LinearOut::kAddFloat:
        kernels_.add(row, num_cols, &task.float_out(row_idx, first_col));
        break;
      case LinearOut::kBf16:
        kernels_.narrow(row, num_cols, bits_of(&task.bf16_out(row_idx, first_col)));
        break;
    }
  }
}

template <typename X>
void LinearProduct::accumulate(
    const Task& task, Range rows, Range panels, X* x_block, float* sums) const {
  const int64_t num_rows = rows.end - rows.begin;
  const int64_t num_cols = task.x.cols;
  const int64_t block_cols = cols_a_block<X>(kernels_, num_rows, num_cols);
  const int64_t x_stride = block_cols + kRowPadElements;
  for (int64_t col_idx = 0; col_idx < num_cols; col_idx += block_cols) {
    const int64_t cols = std::min(block_cols, num_cols - col_idx);
    for (int64_t row = 0; row < num_rows; ++row) {
      convert(kernels_, &task.x(rows.begin + row, col_idx), cols, x_block + row * x_stride);
      if (cols % 2 != 0) x_block[row * x_stride + cols] = X{0};
    }
    const Gemm<X> gemm{.x = x_block,
                       .x_stride = x_stride,
                       .num_rows = num_rows,
                       .panels = task.weight->panel(panels.begin) + col_idx * kPanelRows,
                       .panel_stride = task.weight->panel_stride(),
                       .num_panels = panels.end - panels.begin,
                       .num_k = round_up(cols, 2),
                       .out = sums,
                       .out_stride = (panels.end - panels.begin) * kPanelRows,
                       .accumulate = col_idx > 0};
    if constexpr (std::is_same_v<X, float>) {
      kernels_.gemm_f32(gemm);
    } else {
      kernels_.gemm_bf16(gemm);
    }
  }
}

}  // namespace tandem::gpu::host
