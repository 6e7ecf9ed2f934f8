// The most multiply-adds a second that this machine's cores do, by instruction; measured.
#pragma once

#include "runtime/topology/worker_pool.h"

namespace tandem::bench {

enum class MultiplyAdd { kAvx2Fma, kAvx512Fma, kAvx512Bf16 };

// All workers at once, GFLOP/s (a multiply-add is two); 0 where the CPU has no such instruction.
double measure_peak_gflop_per_s(WorkerPool& pool, MultiplyAdd instruction);

}  // namespace tandem::bench
