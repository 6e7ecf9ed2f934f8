// Which kernels this CPU runs: the best instruction set, or the one that TANDEM_CPU_ISA names.
#pragma once

#include <string>
#include <vector>

#include "gpu/host/kernels.h"

namespace tandem::gpu::host {

// Of this CPU, from the plainest (always "scalar") to the best.
std::vector<const Kernels*> supported_kernels();

// The best; or, where `forced_isa` is not null, the one of that name. Throws ConfigError for a name
// that is unknown or not of this CPU, with the names that are.
const Kernels& choose_kernels(const char* forced_isa);

// choose_kernels(TANDEM_CPU_ISA of the environment).
const Kernels& active_kernels();

}  // namespace tandem::gpu::host
