#include "cpu_experts/kernels/moe-inl.h"
// The core follows what it is built on.
#include "cpu_experts/kernels/amx-inl.h"

namespace tandem::cpu_experts {
namespace {
using ExactCore = AmxCore<ExactWeights>;
using RoundedCore = AmxCore<RoundedWeights>;
constexpr TileKernels kKernels = {.exact = kernels_of_cores<ExactCore, ExactCore>(),
                                  .rounded = kernels_of_cores<RoundedCore, RoundedCore>()};
}  // namespace

const TileKernels* amx_bf16_kernels() { return &kKernels; }

}  // namespace tandem::cpu_experts
