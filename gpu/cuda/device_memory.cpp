#include "gpu/cuda/device_memory.h"

#include <fmt/format.h>

#include <utility>

#include "gpu/cuda/error.h"
#include "runtime/base/errors.h"

namespace tandem::gpu::cuda {

DeviceMemory::DeviceMemory(size_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  const cudaError_t status = cudaMalloc(&data_, size_bytes);
  if (status == cudaErrorMemoryAllocation) {
    cudaGetLastError();  // this error does not stick
    size_t free_bytes = 0;
    size_t total_bytes = 0;
    TANDEM_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
    throw LoadError(fmt::format("out of GPU memory: {} bytes wanted, {} of {} free", size_bytes,
                                free_bytes, total_bytes));
  }
  check(status, "cudaMalloc", __FILE__, __LINE__);
  TANDEM_CUDA_CHECK(cudaMemset(data_, 0, size_bytes));
  // The host does not wait for it, and our streams do not wait for the default one: without this a
  // copy on another stream could come first and be zeroed.
  TANDEM_CUDA_CHECK(cudaStreamSynchronize(cudaStreamLegacy));
}

DeviceMemory::~DeviceMemory() { log_failure(cudaFree(data_), "cudaFree"); }

DeviceMemory::DeviceMemory(DeviceMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

DeviceMemory& DeviceMemory::operator=(DeviceMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

}  // namespace tandem::gpu::cuda
