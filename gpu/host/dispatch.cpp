#include "gpu/host/dispatch.h"

#include <cstdlib>

#include "runtime/topology/cpu_isa.h"

namespace tandem::gpu::host {
namespace {

// Dot products of bytes have no use here: their CPUs take the set below.
const Kernels* kernels_of(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      break;
    case CpuIsa::kAvx2:
    case CpuIsa::kAvxVnni:
      return avx2_kernels();
    case CpuIsa::kAvx512:
    case CpuIsa::kAvx512Vnni:
    case CpuIsa::kAvx512VnniZen4:
      return avx512_kernels();
    case CpuIsa::kAvx512Bf16:
      return avx512_bf16_kernels();
    case CpuIsa::kAmxBf16:
      return amx_bf16_kernels();
  }
  return scalar_kernels();
}

}  // namespace

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> result;
  for (const CpuIsa isa : supported_isas()) {
    const Kernels* kernels = kernels_of(isa);
    if (result.empty() || result.back() != kernels) result.push_back(kernels);
  }
  return result;
}

CpuIsa best_isa(std::span<const CpuIsa> available, bool is_intel) {
  const CpuIsa best = available.back();
  return is_intel && best == CpuIsa::kAvx512Bf16 ? CpuIsa::kAvx512 : best;
}

const Kernels& choose_kernels(const char* forced_isa) {
  const std::vector<CpuIsa> available = supported_isas();
  if (forced_isa != nullptr && *forced_isa != '\0') {
    return *kernels_of(choose_isa(available, forced_isa));
  }
#if defined(__x86_64__)
  return *kernels_of(best_isa(available, __builtin_cpu_is("intel") != 0));
#else
  return *kernels_of(best_isa(available, false));
#endif
}

const Kernels& active_kernels() { return choose_kernels(std::getenv("TANDEM_CPU_ISA")); }

}  // namespace tandem::gpu::host
