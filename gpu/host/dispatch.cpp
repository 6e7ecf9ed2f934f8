#include "gpu/host/dispatch.h"

#include <cstdlib>
#include <string_view>

#include "runtime/base/errors.h"

namespace tandem::gpu::host {

std::vector<const Kernels*> supported_kernels() {
  std::vector<const Kernels*> result{scalar_kernels()};
  __builtin_cpu_init();
  // These ask the operating system too (XGETBV): a register set that is not saved is not there.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  if (avx2) result.push_back(avx2_kernels());
  if (avx512) result.push_back(avx512_kernels());
  if (avx512 && __builtin_cpu_supports("avx512bf16")) result.push_back(avx512_bf16_kernels());
  return result;
}

const Kernels& choose_kernels(const char* forced_isa) {
  const std::vector<const Kernels*> supported = supported_kernels();
  if (forced_isa == nullptr || *forced_isa == '\0') return *supported.back();
  std::string names;
  for (const Kernels* kernels : supported) {
    if (std::string_view(forced_isa) == kernels->isa_name) return *kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->isa_name);
  }
  throw ConfigError("TANDEM_CPU_ISA is \"" + std::string(forced_isa) +
                    "\"; this CPU has: " + names);
}

const Kernels& active_kernels() { return choose_kernels(std::getenv("TANDEM_CPU_ISA")); }

}  // namespace tandem::gpu::host
