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
    case CpuIsa::kAvx512VnniZen4:
      return *avx512_vnni_zen4_kernels();
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
  const bool lossy = mode == ActivationMode::kInt8;
  if (isa == CpuIsa::kAmxBf16) {
    return lossy ? amx_bf16_kernels()->rounded : amx_bf16_kernels()->exact;
  }
  if (lossy) return integer_kernels_of(isa).bytes;
  if (isa == CpuIsa::kAvx512Bf16) return *avx512_bf16_kernels();
  return integer_kernels_of(isa).words;
}

std::string KernelChoice::name() const {
  std::string text(isa_name(few));
  if (many != few) text += " and " + std::string(isa_name(many));
  return text;
}

KernelChoice choose_kernels(ActivationMode mode,
                            std::span<const CpuIsa> available,
                            bool zen4,
                            const char* forced) {
  if (forced != nullptr && *forced != '\0') {
    const CpuIsa isa = choose_isa(available, forced);
    return {.few = isa, .many = isa};
  }
  const CpuIsa best = available.back();
  CpuIsa few = std::min(best, CpuIsa::kAvx512Vnni);
  if (zen4 && few == CpuIsa::kAvx512Vnni) few = CpuIsa::kAvx512VnniZen4;
  if (best != CpuIsa::kAmxBf16) return {.few = few, .many = few};
  // From where on the tiles are as fast (bench/results/amx-granite-rapids.txt).
  return {.few = few, .many = best, .many_tokens = mode == ActivationMode::kBf16 ? 8 : 12};
}

KernelChoice choose_kernels(ActivationMode mode) {
  return choose_kernels(mode, supported_isas(), is_zen4(), std::getenv("TANDEM_CPU_ISA"));
}

}  // namespace tandem::cpu_experts
