// Sums over a warp or a CTA, in one order whatever runs beside.
#pragma once

#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

template <typename Cta, typename T>
TANDEM_DEVICE T warp_sum(const Cta& cta, T value) {
  TANDEM_UNROLL
  for (int mask = simt::kWarpSize / 2; mask > 0; mask /= 2) value += cta.shuffle_xor(value, mask);
  return value;
}

// Sum over this lane and all before it; exact types only.
template <typename Cta, typename T>
TANDEM_DEVICE T warp_inclusive_sum(const Cta& cta, T value) {
  TANDEM_UNROLL
  for (int distance = 1; distance < simt::kWarpSize; distance *= 2) {
    const int source = cta.lane_idx() - distance;
    const T other = cta.shuffle(value, source < 0 ? 0 : source);
    if (source >= 0) value += other;
  }
  return value;
}

// The same over the CTA; `totals` [warps] of shared memory that nothing else uses meanwhile.
template <typename Cta, typename T, typename Shared>
TANDEM_DEVICE T cta_inclusive_sum(const Cta& cta, T value, Shared totals) {
  T sum = warp_inclusive_sum(cta, value);
  if (cta.lane_idx() == simt::kWarpSize - 1) totals.store(cta.warp_idx(), sum);
  cta.sync();
  const T of_warp = cta.lane_idx() < cta.warp_idx() ? totals.load(cta.lane_idx()) : T{};
  return sum + warp_sum(cta, of_warp);
}

// For every thread; `partial` as `totals` above.
template <typename Cta, typename T, typename Shared>
TANDEM_DEVICE T cta_sum(const Cta& cta, T value, Shared partial) {
  value = warp_sum(cta, value);
  if (cta.lane_idx() == 0) partial.store(cta.warp_idx(), value);
  cta.sync();
  const int num_warps = cta.num_threads() / simt::kWarpSize;
  return warp_sum(cta, cta.lane_idx() < num_warps ? partial.load(cta.lane_idx()) : T{});
}

}  // namespace tandem::gpu::cuda
