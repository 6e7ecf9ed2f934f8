#include "gpu/devices.h"

#include <fmt/format.h>

#ifdef TANDEM_WITH_CUDA
#include "gpu/cuda/device_query.h"
#endif

namespace tandem::gpu {

CudaSupport detect_cuda() {
#ifdef TANDEM_WITH_CUDA
  return cuda::query_devices();
#else
  return {.in_build = false,
          .runtime_version = "",
          .devices = {},
          .problem = "built without CUDA (./run --with-cuda builds with it)"};
#endif
}

std::string describe(const CudaSupport& support) {
  if (!support.in_build) return support.problem;
  std::string text = fmt::format("CUDA {} in the build", support.runtime_version);
  if (support.devices.empty()) return fmt::format("{}, no device: {}", text, support.problem);
  for (const CudaDevice& device : support.devices) {
    text += fmt::format(", {} (sm_{}, {:.1f} GiB)", device.name, device.compute_capability,
                        static_cast<double>(device.memory_size_bytes) / (1 << 30));
  }
  return text;
}

}  // namespace tandem::gpu
