#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/integers-inl.h"

namespace tandem::cpu_experts {
namespace {
constexpr IntegerKernels kKernels = integer_kernels<kZen4TileShape>();
}  // namespace

const IntegerKernels* avx512_vnni_zen4_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
