// The calling thread's current device, for a scope.
#pragma once

#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {

class DeviceGuard {
 public:
  explicit DeviceGuard(int device_idx) {
    TANDEM_CUDA_CHECK(cudaGetDevice(&previous_idx_));
    if (previous_idx_ != device_idx) TANDEM_CUDA_CHECK(cudaSetDevice(device_idx));
  }
  ~DeviceGuard() { log_failure(cudaSetDevice(previous_idx_), "cudaSetDevice"); }
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int previous_idx_ = 0;
};

}  // namespace tandem::gpu::cuda
