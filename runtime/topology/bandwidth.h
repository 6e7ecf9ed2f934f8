// The machine's limits, measured in the same run as what is compared with them.
#pragma once

#include <cstdint>

#include "runtime/topology/worker_pool.h"

namespace tandem {

// Median read bandwidth of `size_bytes` (beyond every cache: >= 512 MiB is sensible) on all
// workers, GB/s (10^9).
double measure_read_bandwidth_gb_per_s(WorkerPool& pool, int64_t size_bytes, int repeats);
// Median copy bandwidth (bytes read + bytes written), GB/s.
double measure_copy_bandwidth_gb_per_s(WorkerPool& pool, int64_t size_bytes, int repeats);

}  // namespace tandem
