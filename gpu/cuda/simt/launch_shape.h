// The geometry of a launch, and the stream it goes to, without the CUDA headers.
#pragma once

#include <cstdint>

using cudaStream_t = struct CUstream_st*;  // as cuda_runtime.h has it

namespace tandem::gpu::simt {

inline constexpr int kWarpSize = 32;

struct LaunchShape {
  int64_t grid_x = 1;
  int32_t grid_y = 1;
  int32_t grid_z = 1;
  int32_t num_threads = kWarpSize;  // of a CTA, whole warps
  int32_t shared_size_bytes = 0;    // dynamic: all shared memory is
};

// Whether a kernel type's body calls wait_for_previous() itself (launch.cuh).
template <typename Kernel>
inline constexpr bool waits_itself = requires {
  Kernel::kWaitsItself;
};

}  // namespace tandem::gpu::simt
