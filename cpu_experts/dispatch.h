// The tables of kernels for an instruction set and a form of the activations.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "cpu_experts/expert_kernels.h"
#include "runtime/topology/cpu_isa.h"

namespace tandem::cpu_experts {

// kBf16 keeps the accuracy of BF16 activations. kInt8 rounds them to eight bits a group of 32, its
// largest to nine: lossy, faster where arithmetic is the limit. On AMX tiles, whose products of
// bytes would have to be scaled group by group, it rounds the weights to BF16 instead, and
// activations stay what they are.
enum class ActivationMode { kBf16, kInt8 };
std::string_view mode_name(ActivationMode mode);  // "bf16", "int8"

// The kernels of `isa`. Under kInt8 kAvx512Bf16 takes the set below.
const ExpertKernels& kernels_of(CpuIsa isa, ActivationMode mode);

// Kernels for a step by its tokens: those of `many` from `many_tokens` tokens an expert on, else
// those of `few`.
struct KernelChoice {
  CpuIsa few = CpuIsa::kScalar;
  CpuIsa many = CpuIsa::kScalar;
  int many_tokens = 1;

  [[nodiscard]] CpuIsa isa_for(int64_t num_pairs, int64_t num_experts) const {
    return num_pairs >= many_tokens * num_experts ? many : few;
  }
  [[nodiscard]] std::string name() const;  // "avx2", "avx512_vnni and amx_bf16"
};

// The set that `forced`, the value of TANDEM_CPU_ISA, names, for any number of tokens; unless that
// is null or empty the best of `available` for this purpose, which is not the last of the list:
// words through VNNI decode by shifts, without the permutations of BF16 products, at the same peak,
// and tiles pay from some tokens on; on a Zen 4 they are arranged for it. A token's bits then
// depend on its batch where AMX is used; forcing a set restores that they do not. Throws as
// choose_isa.
KernelChoice choose_kernels(ActivationMode mode,
                            std::span<const CpuIsa> available,
                            bool zen4,
                            const char* forced);
// Of this CPU and the environment.
KernelChoice choose_kernels(ActivationMode mode);

}  // namespace tandem::cpu_experts
