// The table of kernels for an instruction set.
#pragma once

#include "cpu_experts/expert_kernels.h"
#include "runtime/topology/cpu_isa.h"

namespace tandem::cpu_experts {

const ExpertKernels& kernels_of(CpuIsa isa);

}  // namespace tandem::cpu_experts
