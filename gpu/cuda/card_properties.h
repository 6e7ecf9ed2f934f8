// What the runtime says of one card, as the parts of gpu/cuda ask for it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/cuda/mla_attention.h"

namespace tandem::gpu::cuda {

// Throws LoadError where there is no such card, or none that the kernels are for; CudaError.
cudaDeviceProp properties_of(int32_t card_idx);

MlaAttention::Card mla_card(const cudaDeviceProp& properties);

}  // namespace tandem::gpu::cuda
