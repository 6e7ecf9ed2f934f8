// Sums over a warp or a CTA, in one order whatever runs beside.
#pragma once

#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

template <typename Cta>
TANDEM_DEVICE float warp_sum(const Cta& cta, float value) {
  TANDEM_UNROLL
  for (int mask = simt::kWarpSize / 2; mask > 0; mask /= 2) value += cta.shuffle_xor(value, mask);
  return value;
}

// Sum over this lane and all before it.
template <typename Cta>
TANDEM_DEVICE int32_t warp_inclusive_sum(const Cta& cta, int32_t value) {
  TANDEM_UNROLL
  for (int distance = 1; distance < simt::kWarpSize; distance *= 2) {
    const int source = cta.lane_idx() - distance;
    const int32_t other = cta.shuffle(value, source < 0 ? 0 : source);
    if (source >= 0) value += other;
  }
  return value;
}

// For every thread; `partial` [warps] floats of shared memory that nothing else uses meanwhile.
template <typename Cta, typename Shared>
TANDEM_DEVICE float cta_sum(const Cta& cta, float value, Shared partial) {
  value = warp_sum(cta, value);
  if (cta.lane_idx() == 0) partial.store(cta.warp_idx(), value);
  cta.sync();
  float sum = 0.0f;
  for (int warp = 0; warp < cta.num_threads() / simt::kWarpSize; ++warp) sum += partial.load(warp);
  return sum;
}

}  // namespace tandem::gpu::cuda
