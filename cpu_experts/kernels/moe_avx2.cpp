#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/planes-inl.h"

namespace tandem::cpu_experts {

const PlaneKernels* avx2_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
