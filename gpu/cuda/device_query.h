// What the CUDA runtime says of the machine's cards. No CUDA type leaves this folder.
#pragma once

#include "gpu/devices.h"

namespace tandem::gpu::cuda {

// Never throws: a machine without a driver or a card is an answer, not an error.
CudaSupport query_devices();

}  // namespace tandem::gpu::cuda
