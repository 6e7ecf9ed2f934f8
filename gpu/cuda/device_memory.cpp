#include "gpu/cuda/device_memory.h"

#include <fmt/format.h>

#include "gpu/cuda/error.h"
#include "runtime/base/errors.h"

namespace tandem::gpu::cuda {

namespace {

void give_back(void* data) { log_failure(cudaFree(data), "cudaFree"); }

}  // namespace

DeviceMemory::DeviceMemory() : DeviceMemory(0) {}

DeviceMemory::DeviceMemory(size_t size_bytes) : OwnedMemory(give_back, size_bytes) {
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

}  // namespace tandem::gpu::cuda
