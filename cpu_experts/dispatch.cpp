#include "cpu_experts/dispatch.h"

namespace tandem::cpu_experts {

const ExpertKernels& kernels_of(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kAvx2:
      return *avx2_kernels();
    case CpuIsa::kAvx512:
      return *avx512_kernels();
    case CpuIsa::kAvx512Bf16:
      return *avx512_bf16_kernels();
    case CpuIsa::kScalar:
      break;
  }
  return *scalar_kernels();
}

}  // namespace tandem::cpu_experts
