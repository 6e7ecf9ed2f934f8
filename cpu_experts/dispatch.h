// The table of kernels for an instruction set and a form of the activations.
#pragma once

#include <string_view>

#include "cpu_experts/expert_kernels.h"
#include "runtime/topology/cpu_isa.h"

namespace tandem::cpu_experts {

// kBf16 keeps the accuracy of BF16 activations, kInt8 rounds them to eight bits a group of 32:
// lossy, about twice as fast where arithmetic is the limit.
enum class ActivationMode { kBf16, kInt8 };
std::string_view mode_name(ActivationMode mode);  // "bf16", "int8"

// The kernels of `isa`, forced by name; kInt8 has no use for BF16 products and takes the set below.
const ExpertKernels& kernels_of(CpuIsa isa, ActivationMode mode);

// The instruction set to use where none is forced: the best for this purpose, which is not the last
// of the list. Two planes of bytes through VNNI need half the decoding of BF16 products at the same
// peak.
CpuIsa best_isa(ActivationMode mode);

}  // namespace tandem::cpu_experts
