// The tables of kernels for an instruction set and a form of the activations.
#pragma once

#include <string>
#include <string_view>

#include "cpu_experts/expert_kernels.h"
#include "runtime/topology/cpu_isa.h"

namespace tandem::cpu_experts {

// kBf16 keeps the accuracy of BF16 activations. kInt8 rounds them to eight bits a group of 32, its
// largest to nine: lossy, faster where arithmetic is the limit.
enum class ActivationMode { kBf16, kInt8 };
std::string_view mode_name(ActivationMode mode);  // "bf16", "int8"

// The kernels of `isa`. kInt8 has no use for BF16 products and takes the set below.
const ExpertKernels& kernels_of(CpuIsa isa, ActivationMode mode);

// Kernels for a step by its tokens: those of `many` from kManyTokens tokens an expert on, else
// those of `few`.
struct KernelChoice {
  CpuIsa few = CpuIsa::kScalar;
  CpuIsa many = CpuIsa::kScalar;
  static constexpr int kManyTokens = 12;

  [[nodiscard]] CpuIsa isa_for(int64_t num_pairs, int64_t num_experts) const {
    return num_pairs >= kManyTokens * num_experts ? many : few;
  }
  [[nodiscard]] std::string name() const;  // "avx2", "avx512_vnni and amx_bf16"
};

// The set that TANDEM_CPU_ISA names, for any number of tokens; else the best for this purpose,
// which is not the last of the list: words through VNNI decode by shifts, without the permutations
// of BF16 products, at the same peak, and tiles pay from a tile of tokens on. A token's bits then
// depend on its batch where AMX is used; forcing a set restores that they do not.
KernelChoice choose_kernels(ActivationMode mode);

}  // namespace tandem::cpu_experts
