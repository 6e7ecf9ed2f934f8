// out = x W^T on all workers, for any number of rows with the same bits a row.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "gpu/host/panels.h"

namespace tandem::gpu::host {

enum class LinearOut { kFloat, kAddFloat, kBf16 };

class LinearProduct {
 public:
  LinearProduct(const Kernels& kernels, WorkerPool& pool);

  void run(MatrixView<const bf16> x, const PanelMatrix& weight, MatrixView<float> out, bool add);
  void run(MatrixView<const bf16> x, const PanelMatrix& weight, MatrixView<bf16> out);

 private:
  struct Task;
  void run(const Task& task);
  void run_part(const Task& task, int worker_idx, int num_workers) const;
  void run_block(const Task& task, Range rows, Range panels, int worker_idx) const;
  template <typename X>
  void accumulate(const Task& task, Range rows, Range panels, X* x_block, float* sums) const;

  const Kernels& kernels_;
  WorkerPool& pool_;
  // A worker's block of x in the kernel's own type, and its block of sums.
  struct Scratch {
    HostMemory x_block;
    HostMemory sums;
  };
  std::vector<Scratch> scratch_;
};

}  // namespace tandem::gpu::host
