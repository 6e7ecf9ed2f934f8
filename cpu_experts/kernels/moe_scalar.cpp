#include "cpu_experts/kernels/moe-inl.h"

namespace tandem::cpu_experts {

const ExpertKernels* scalar_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
