#include "gpu/cuda/card_properties.h"

#include <fmt/format.h>

#include "gpu/cuda/error.h"
#include "gpu/devices.h"
#include "runtime/base/errors.h"

namespace tandem::gpu::cuda {

cudaDeviceProp properties_of(int32_t card_idx) {
  int num_cards = 0;
  const cudaError_t status = cudaGetDeviceCount(&num_cards);
  if (status != cudaSuccess || card_idx >= num_cards) {
    throw LoadError(fmt::format(
        "GPU {}: {}", card_idx,
        status != cudaSuccess ? cudaGetErrorString(status) : "the driver names no such card"));
  }
  cudaDeviceProp properties{};
  TANDEM_CUDA_CHECK(cudaGetDeviceProperties(&properties, card_idx));
  if (10 * properties.major + properties.minor < kMinComputeCapability) {
    throw LoadError(
        fmt::format("GPU {}: {} has compute capability {}.{}, expected at least {}.{}; --gpus none "
                    "computes on the CPU",
                    card_idx, properties.name, properties.major, properties.minor,
                    kMinComputeCapability / 10, kMinComputeCapability % 10));
  }
  return properties;
}

MlaAttention::Card mla_card(const cudaDeviceProp& properties) {
  return {.num_multiprocessors = properties.multiProcessorCount,
          .is_hopper = properties.major == 9};
}

}  // namespace tandem::gpu::cuda
