// The calling thread's current device.
#pragma once

#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {

// Whoever needs a card names it; none is put back. To name the card that a thread begins with
// would set that one up for this process too: half a gigabyte of it, be it used or not.
inline void make_current(int device_idx) {
  int current_idx = 0;
  TANDEM_CUDA_CHECK(cudaGetDevice(&current_idx));
  if (current_idx != device_idx) TANDEM_CUDA_CHECK(cudaSetDevice(device_idx));
}

}  // namespace tandem::gpu::cuda
