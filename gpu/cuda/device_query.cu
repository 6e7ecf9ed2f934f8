#include <cuda_runtime.h>

#include <string>

#include "gpu/cuda/current_device.h"
#include "gpu/cuda/device_query.h"
#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {
namespace {

// CUDART_VERSION and the like are 1000 * major + 10 * minor.
std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

}  // namespace

CudaSupport query_devices() {
  CudaSupport support;
  support.in_build = true;
  support.runtime_version = version_text(CUDART_VERSION);
  int num_devices = 0;
  const cudaError_t status = cudaGetDeviceCount(&num_devices);
  if (status != cudaSuccess) {
    support.problem = cudaGetErrorString(status);
    return support;
  }
  for (int device_idx = 0; device_idx < num_devices; ++device_idx) {
    cudaDeviceProp properties{};
    if (cudaGetDeviceProperties(&properties, device_idx) != cudaSuccess) continue;
    support.devices.push_back({.name = properties.name,
                               .memory_size_bytes = static_cast<int64_t>(properties.totalGlobalMem),
                               .compute_capability = properties.major * 10 + properties.minor});
  }
  if (support.devices.empty()) support.problem = "the driver names no card";
  return support;
}

int64_t free_size_bytes(int32_t card_idx) {
  make_current(card_idx);
  size_t free_bytes = 0;
  size_t total_bytes = 0;
  TANDEM_CUDA_CHECK(cudaMemGetInfo(&free_bytes, &total_bytes));
  return static_cast<int64_t>(free_bytes);
}

}  // namespace tandem::gpu::cuda
