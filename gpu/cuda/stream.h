// An in-order queue of work on the current device, owned; never waits for the legacy default
// stream.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

#include "gpu/cuda/event.h"

namespace tandem::gpu::cuda {

class Stream {
 public:
  Stream();  // throws CudaError
  ~Stream();
  Stream(Stream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  Stream& operator=(Stream&& other) noexcept {
    std::swap(stream_, other.stream_);
    return *this;
  }

  [[nodiscard]] cudaStream_t get() const { return stream_; }
  void synchronize() const;                 // the calling thread waits for all work so far
  void wait_for(const Event& event) const;  // later work of this stream waits, the host does not

 private:
  cudaStream_t stream_ = nullptr;
};

}  // namespace tandem::gpu::cuda
