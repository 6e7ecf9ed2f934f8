#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/amx-inl.h"

namespace tandem::cpu_experts {
namespace {
constexpr ExpertKernels kKernels = kernels_of_cores<AmxCore, AmxCore>();
}  // namespace

const ExpertKernels* amx_bf16_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
