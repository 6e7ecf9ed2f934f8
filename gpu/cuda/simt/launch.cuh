// From a kernel type to a launch. A kernel type K has
//   K::Params                          a plain struct, the kernel's argument
//   K::kMaxThreads, K::kMinBlocks      for __launch_bounds__
//   K::launch_shape(params)            grid, threads and shared memory, on the host
//   K::run(cta, params)                the body, a template over the Cta
//   K::kWaitsItself                    only where run() itself calls cta.wait_for_previous(),
//                                      behind its first loads of weights
// For nvcc alone: where the tests compile launches as C++, their emulator has a launch() of its own
// (tests/gpu/card/emulated_launch.h).
//
// Dependent launches: on the cards that sm_90a and sm_100a are for, a kernel's CTAs may start while
// the kernel before it in the stream (or recording) still runs, and wait in wait_for_previous().
// That call returns when all of that kernel is done, not when it let the next one begin; and as
// every thread of every kernel calls it, what stands further back is done then, too. A kernel of
// somebody else's between ours, or a copy, is waited for as a whole, as ever.
// TANDEM_DEPENDENT_LAUNCHES=0 turns them off.
#pragma once

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#include <array>
#include <atomic>
#include <cstdlib>
#include <cstring>

#include "gpu/cuda/simt/device_cta.cuh"
#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/check.h"

namespace tandem::gpu::simt {

template <typename Kernel>
__global__ void __launch_bounds__(Kernel::kMaxThreads, Kernel::kMinBlocks)
    kernel_entry(const __grid_constant__ typename Kernel::Params params) {
  DeviceCta cta;
  cta.let_next_begin();
  if constexpr (!waits_itself<Kernel>) cta.wait_for_previous();
  Kernel::run(cta, params);
}

// What a kernel has been asked for on a device: at its first launch there, and when it needs more
// shared memory than before. Neither is a stream operation, so both may stand in a capture.
struct KernelOnDevice {
  std::atomic<bool> is_known{false};
  std::atomic<bool> waits{false};  // the code that the device runs has wait_for_previous() in it
  std::atomic<int32_t> shared_size_bytes{48 * 1024};  // beyond that it must be asked for
};

template <typename Kernel>
KernelOnDevice& kernel_on_device() {
  constexpr int kMaxDevices = 32;
  static std::array<KernelOnDevice, kMaxDevices> kernels{};
  int device_idx = 0;
  TANDEM_CHECK(cudaGetDevice(&device_idx) == cudaSuccess && device_idx < kMaxDevices,
               "launch: no current device");
  return kernels[static_cast<size_t>(device_idx)];
}

inline bool wants_dependent_launches() {
  static const bool kWanted = [] {
    const char* value = std::getenv("TANDEM_DEPENDENT_LAUNCHES");
    return value == nullptr || std::strcmp(value, "0") != 0;
  }();
  return kWanted;
}

// Enqueues; allocates nothing and waits for nothing. An empty grid is no launch. Returns what the
// runtime said of the launch.
template <typename Kernel>
cudaError_t launch(const typename Kernel::Params& params, cudaStream_t stream) {
  const LaunchShape shape = Kernel::launch_shape(params);
  if (shape.grid_x == 0 || shape.grid_y == 0 || shape.grid_z == 0) return cudaSuccess;
  TANDEM_CHECK(shape.num_threads <= Kernel::kMaxThreads && shape.num_threads % kWarpSize == 0,
               "launch: threads");
  KernelOnDevice& kernel = kernel_on_device<Kernel>();
  if (!kernel.is_known.load(std::memory_order_acquire)) {
    cudaFuncAttributes attributes{};
    const cudaError_t status = cudaFuncGetAttributes(&attributes, kernel_entry<Kernel>);
    if (status != cudaSuccess) return status;
    // Of sm_80's code, compiled anew for a later card, the version is 80: nothing waits in it.
    kernel.waits.store(attributes.ptxVersion >= 90, std::memory_order_relaxed);
    kernel.is_known.store(true, std::memory_order_release);
  }
  if (shape.shared_size_bytes > kernel.shared_size_bytes.load(std::memory_order_relaxed)) {
    TANDEM_CHECK(
        cudaFuncSetAttribute(kernel_entry<Kernel>, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             shape.shared_size_bytes) == cudaSuccess,
        "launch: more shared memory than the device has");
    kernel.shared_size_bytes.store(shape.shared_size_bytes, std::memory_order_relaxed);
  }
  cudaLaunchAttribute dependent{};
  dependent.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  dependent.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.grid_x), static_cast<unsigned>(shape.grid_y),
                        static_cast<unsigned>(shape.grid_z));
  config.blockDim = dim3(static_cast<unsigned>(shape.num_threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_size_bytes);
  config.stream = stream;
  config.attrs = &dependent;
  config.numAttrs =
      wants_dependent_launches() && kernel.waits.load(std::memory_order_relaxed) ? 1 : 0;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel_entry<Kernel>, params);
  const cudaError_t last = cudaGetLastError();  // taken back, as it is told here
  return status != cudaSuccess ? status : last;
}

}  // namespace tandem::gpu::simt

#endif  // __CUDACC__
