// The limit that a device's dense part is compared with.
#pragma once

#include <cstddef>

#include "gpu/ops.h"

namespace tandem::offload {

// Median of copies of `size_bytes` within the device's memory, bytes read and bytes written, GB/s.
// Takes twice that memory for the time being; more than the device's caches is sensible. Between
// steps only.
double measure_copy_gb_per_s(gpu::Ops& ops, size_t size_bytes);

}  // namespace tandem::offload
