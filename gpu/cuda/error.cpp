#include "gpu/cuda/error.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <string>

namespace tandem::gpu::cuda {
namespace {

std::string message(cudaError_t status, const char* call, const char* file, int line) {
  int device_idx = -1;
  const bool has_device = cudaGetDevice(&device_idx) == cudaSuccess;
  return fmt::format("CUDA: {}: {} ({}) on {} at {}:{}", call, cudaGetErrorString(status),
                     cudaGetErrorName(status),
                     has_device ? fmt::format("device {}", device_idx) : "no device", file, line);
}

}  // namespace

CudaError::CudaError(cudaError_t status_in, const char* call, const char* file, int line)
    : std::runtime_error(message(status_in, call, file, line)), status(status_in) {
  cudaGetLastError();
}

void log_failure(cudaError_t status, const char* call) noexcept {
  if (status == cudaSuccess || status == cudaErrorCudartUnloading) return;
  spdlog::error("CUDA: {}: {} ({})", call, cudaGetErrorString(status), cudaGetErrorName(status));
}

}  // namespace tandem::gpu::cuda
