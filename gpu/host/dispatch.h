// Which kernels this CPU runs: the best instruction set, or the one that TANDEM_CPU_ISA names.
#pragma once

#include <span>
#include <vector>

#include "gpu/host/kernels.h"
#include "runtime/topology/cpu_isa.h"

namespace tandem::gpu::host {

// Of this CPU, from the plainest (always "scalar") to the best.
std::vector<const Kernels*> supported_kernels();

// The last of `available` but for Intel's BF16 dot products, which do half of what fused FP32
// additions do (172 of 351 GFLOP/s on Emerald Rapids, 230 of 465 on Granite Rapids).
CpuIsa best_isa(std::span<const CpuIsa> available, bool is_intel);

// The best of this CPU; or, where `forced_isa` is neither null nor empty, that one. Throws
// ConfigError for a name that is unknown or not of this CPU, with the names that are.
const Kernels& choose_kernels(const char* forced_isa);

// choose_kernels(TANDEM_CPU_ISA of the environment).
const Kernels& active_kernels();

}  // namespace tandem::gpu::host
