#include "cpu_experts/dispatch.h"

#include <vector>

namespace tandem::cpu_experts {
namespace {

const PlaneKernels& plane_kernels_of(CpuIsa isa) {
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
      return *avx512_vnni_kernels();
  }
  return *scalar_kernels();
}

}  // namespace

std::string_view mode_name(ActivationMode mode) {
  return mode == ActivationMode::kBf16 ? "bf16" : "int8";
}

const ExpertKernels& kernels_of(CpuIsa isa, ActivationMode mode) {
  if (mode == ActivationMode::kInt8) return plane_kernels_of(isa).one_plane;
  if (isa == CpuIsa::kAvx512Bf16) return *avx512_bf16_kernels();
  return plane_kernels_of(isa).two_planes;
}

CpuIsa best_isa(ActivationMode) {
  const CpuIsa last = supported_isas().back();
  return last == CpuIsa::kAvx512Bf16 ? CpuIsa::kAvx512Vnni : last;
}

}  // namespace tandem::cpu_experts
