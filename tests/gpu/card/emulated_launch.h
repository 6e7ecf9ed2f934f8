// What gpu/cuda/simt/launch.cuh is for nvcc: a launch of a kernel type, here into the queue of an
// emulated card. Included first (-include) where the tests compile gpu/cuda/kernels/*.cu as C++.
#pragma once

#include "tests/gpu/card/emulated_card.h"
#include "tests/gpu/simt/emulated_cta.h"

namespace tandem::gpu::simt {

template <typename Kernel>
cudaError_t launch(const typename Kernel::Params& params, cudaStream_t stream) {
  emulated_card::enqueue_dependent(stream, [params](const std::function<void()>& previous) {
    emulate<Kernel>(params, ThreadOrder::kShuffled, previous);
  });
  return cudaSuccess;
}

}  // namespace tandem::gpu::simt
