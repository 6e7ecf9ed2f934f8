#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/bf16-inl.h"

namespace tandem::cpu_experts {

const ExpertKernels* avx512_bf16_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
