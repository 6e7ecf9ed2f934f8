// Host memory that every device copies from and to at full speed and reads directly, owned.
#pragma once

#include <cstddef>

#include "gpu/cuda/owned_memory.h"

namespace tandem::gpu::cuda {

class PinnedMemory : public OwnedMemory {
 public:
  PinnedMemory();  // of nothing
  // Zeroed, page-aligned, one address for host and devices. Throws CudaError.
  explicit PinnedMemory(size_t size_bytes);
};

}  // namespace tandem::gpu::cuda
