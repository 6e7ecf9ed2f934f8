#include "cpu_experts/dispatch.h"

#include <algorithm>
#include <cstdlib>
#include <vector>

namespace tandem::cpu_experts {
namespace {

const IntegerKernels& integer_kernels_of(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      break;
    case CpuIsa::kAvx2:
      return *avx2_kernels();
    case CpuIsa::kAvxVnni:
      return *avx_vnni_kernels();
    case CpuIsa::kAvx512:
      return *avx512_kernels();
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAvx512Bf16:
    case CpuIsa::kAmxBf16:
      return *avx512_vnni_kernels();
  }
  return *scalar_kernels();
}

}  // namespace

std::string_view mode_name(ActivationMode mode) {
  return mode == ActivationMode::kBf16 ? "bf16" : "int8";
}

const ExpertKernels& kernels_of(CpuIsa isa, ActivationMode mode) {
  if (mode == ActivationMode::kInt8) return integer_kernels_of(isa).bytes;
  if (isa == CpuIsa::kAvx512Bf16) return *avx512_bf16_kernels();
  if (isa == CpuIsa::kAmxBf16) return *amx_bf16_kernels();
  return integer_kernels_of(isa).words;
}

std::string KernelChoice::name() const {
  std::string text(isa_name(few));
  if (many != few) text += " and " + std::string(isa_name(many));
  return text;
}

KernelChoice choose_kernels(ActivationMode mode) {
  const std::vector<CpuIsa> supported = supported_isas();
  const char* forced = std::getenv("TANDEM_CPU_ISA");
  if (forced != nullptr && *forced != '\0') {
    const CpuIsa isa = choose_isa(supported, forced);
    return {.few = isa, .many = isa};
  }
  const CpuIsa few = std::min(supported.back(), CpuIsa::kAvx512Vnni);
  const bool tiles = mode == ActivationMode::kBf16 && supported.back() == CpuIsa::kAmxBf16;
  return {.few = few, .many = tiles ? CpuIsa::kAmxBf16 : few};
}

}  // namespace tandem::cpu_experts
