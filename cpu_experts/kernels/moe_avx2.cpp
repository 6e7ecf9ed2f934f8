#include "cpu_experts/kernels/moe-inl.h"

namespace tandem::cpu_experts {

const ExpertKernels* avx2_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
