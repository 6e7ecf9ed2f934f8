#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/bf16-inl.h"

namespace tandem::cpu_experts {
namespace {
constexpr ExpertKernels kKernels = kernels_of_cores<Bf16Core, Bf16Core>();
}  // namespace

const ExpertKernels* avx512_bf16_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
