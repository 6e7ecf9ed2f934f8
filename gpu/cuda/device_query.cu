#include <cuda_runtime.h>

#include <string>

#include "gpu/cuda/device_query.h"

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
    support.devices.push_back({properties.name, static_cast<int64_t>(properties.totalGlobalMem),
                               properties.major * 10 + properties.minor});
  }
  if (support.devices.empty()) support.problem = "the driver names no card";
  return support;
}

}  // namespace tandem::gpu::cuda
