// Work recorded once from a stream and launched again as a whole, owned.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>
#include <utility>

#include "gpu/cuda/stream.h"

namespace tandem::gpu::cuda {

class CapturedGraph {
 public:
  CapturedGraph() = default;
  // Records what `work` enqueues on `stream` instead of running it. `work` may not wait for the
  // device. When it throws, the capture is ended and nothing is kept. Throws CudaError.
  static CapturedGraph capture(const Stream& stream, const std::function<void()>& work);
  ~CapturedGraph();
  CapturedGraph(CapturedGraph&& other) noexcept
      : executable_(std::exchange(other.executable_, nullptr)),
        num_nodes_(std::exchange(other.num_nodes_, 0)) {}
  CapturedGraph& operator=(CapturedGraph&& other) noexcept {
    std::swap(executable_, other.executable_);
    std::swap(num_nodes_, other.num_nodes_);
    return *this;
  }

  [[nodiscard]] bool empty() const { return executable_ == nullptr; }
  [[nodiscard]] size_t num_nodes() const { return num_nodes_; }  // kernels and copies
  // Enqueues all of it on `stream`.
  void launch(const Stream& stream) const;

 private:
  cudaGraphExec_t executable_ = nullptr;
  size_t num_nodes_ = 0;
};

}  // namespace tandem::gpu::cuda
