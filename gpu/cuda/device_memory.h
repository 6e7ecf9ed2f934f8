// Memory of the current device, owned. Taken between steps only: a step allocates nothing.
#pragma once

#include <cstddef>

#include "gpu/cuda/owned_memory.h"

namespace tandem::gpu::cuda {

class DeviceMemory : public OwnedMemory {
 public:
  DeviceMemory();  // of nothing
  // On the current device, zeroed, 256-byte aligned. Throws LoadError where the card has not so
  // much, naming what is free.
  explicit DeviceMemory(size_t size_bytes);
};

}  // namespace tandem::gpu::cuda
