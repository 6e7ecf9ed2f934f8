// The NVIDIA cards of this machine, as far as this build can see them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace tandem::gpu {

struct CudaDevice {
  std::string name;  // "NVIDIA H200"
  int64_t memory_size_bytes = 0;
  int32_t compute_capability = 0;  // 90 for Hopper
};

struct CudaSupport {
  bool in_build = false;            // compiled with TANDEM_WITH_CUDA
  std::string runtime_version;      // "13.0"; "" without CUDA in the build
  std::vector<CudaDevice> devices;  // in the driver's order
  std::string problem;              // why `devices` is empty: no driver, no card, not in the build
};

CudaSupport detect_cuda();
std::string describe(
    const CudaSupport& support);  // one line, for `tandem version` and the start-up log

}  // namespace tandem::gpu
