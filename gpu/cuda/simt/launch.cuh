// From a kernel type to a launch. A kernel type K has
//   K::Params                          a plain struct, the kernel's argument
//   K::kMaxThreads, K::kMinBlocks      for __launch_bounds__
//   K::launch_shape(params)            grid, threads and shared memory, on the host
//   K::run(cta, params)                the body, a template over the Cta
// For nvcc alone: where the tests compile launches as C++, their emulator has a launch() of its own
// (tests/gpu/card/emulated_launch.h).
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <array>
#include <atomic>

#include "gpu/cuda/simt/device_cta.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::simt {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kMaxThreads, Kernel::kMinBlocks)
    kernel_entry(const __grid_constant__ typename Kernel::Params params) {
  DeviceCta cta;
  Kernel::run(cta, params);
}

// More than 48 KB of dynamic shared memory must be asked for, per kernel and device: done at the
// first launch that needs it, which is not a stream operation and so may stand in a capture.
template <typename Kernel>
void allow_shared_memory(int32_t size_bytes) {
  constexpr int32_t kDefaultSizeBytes = 48 * 1024;
  constexpr int kMaxDevices = 32;
  static std::array<std::atomic<int32_t>, kMaxDevices> allowed_size_bytes{};
  if (size_bytes <= kDefaultSizeBytes) return;
  int device_idx = 0;
  TANDEM_CHECK(cudaGetDevice(&device_idx) == cudaSuccess && device_idx < kMaxDevices,
               "launch: no current device");
  std::atomic<int32_t>& allowed = allowed_size_bytes[static_cast<size_t>(device_idx)];
  if (allowed.load(std::memory_order_relaxed) >= size_bytes) return;
  TANDEM_CHECK(
      cudaFuncSetAttribute(kernel_entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                           size_bytes) == cudaSuccess,
      "launch: more shared memory than the device has");
  allowed.store(size_bytes, std::memory_order_relaxed);
}

// Enqueues; allocates nothing and waits for nothing. An empty grid is no launch. Returns what the
// runtime said of the launch.
template <typename Kernel>
cudaError_t launch(const typename Kernel::Params& params, cudaStream_t stream) {
  const LaunchShape shape = Kernel::launch_shape(params);
  if (shape.grid_x == 0 || shape.grid_y == 0 || shape.grid_z == 0) return cudaSuccess;
  TANDEM_CHECK(shape.num_threads <= Kernel::kMaxThreads && shape.num_threads % kWarpSize == 0,
               "launch: threads");
  allow_shared_memory<Kernel>(shape.shared_size_bytes);
  const dim3 grid(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y),
                  static_cast<unsigned>(shape.grid_z));
  kernel_entry<Kernel><<<grid, static_cast<unsigned>(shape.num_threads),
                         static_cast<size_t>(shape.shared_size_bytes), stream>>>(params);
  return cudaGetLastError();
}

}  // namespace tandem::gpu::simt

#endif  // __CUDACC__
