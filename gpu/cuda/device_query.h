// What the CUDA runtime says of the machine's cards. No CUDA type leaves this folder.
#pragma once

#include "gpu/devices.h"

namespace tandem::gpu::cuda {

// Never throws: a machine without a driver or a card is an answer, not an error.
CudaSupport query_devices();

// Of a card's memory, now. Throws CudaError.
int64_t free_size_bytes(int32_t card_idx);

}  // namespace tandem::gpu::cuda
