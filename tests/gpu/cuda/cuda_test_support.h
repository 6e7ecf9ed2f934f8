// What the tests of gpu/cuda share: [gpu] tests need a card and skip visibly without one; [wide]
// ones take minutes on the emulated card of tests/gpu/card.
#pragma once

#include <catch2/catch_test_macros.hpp>

#include "gpu/cuda/device_query.h"

namespace tandem::gpu::cuda::testing {

// First line of every [gpu] test.
inline void require_card() {
  const CudaSupport support = query_devices();
  if (support.devices.empty()) SKIP("needs an NVIDIA card: " << support.problem);
}

}  // namespace tandem::gpu::cuda::testing
