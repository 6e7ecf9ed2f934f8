// Every CUDA call goes through TANDEM_CUDA_CHECK.
#pragma once

#include <cuda_runtime_api.h>

#include <stdexcept>

namespace tandem::gpu::cuda {

// A call failed. what() names call, file and line, device, and the runtime's own text.
struct CudaError : std::runtime_error {
  CudaError(cudaError_t status_in, const char* call, const char* file, int line);
  cudaError_t status;
};

// Throws CudaError unless `status` is cudaSuccess. An error that does not stick to the context is
// cleared, so that the next call does not report it again.
inline void check(cudaError_t status, const char* call, const char* file, int line) {
  if (status != cudaSuccess) [[unlikely]]
    throw CudaError(status, call, file, line);
}

// For destructors, where nothing may be thrown: logs instead. cudaErrorCudartUnloading is the end
// of the process and no error.
void log_failure(cudaError_t status, const char* call) noexcept;

}  // namespace tandem::gpu::cuda

#define TANDEM_CUDA_CHECK(call) ::tandem::gpu::cuda::check((call), #call, __FILE__, __LINE__)
