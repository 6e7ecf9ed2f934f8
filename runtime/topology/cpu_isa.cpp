#include "runtime/topology/cpu_isa.h"

#include <fmt/format.h>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <string>

#include "runtime/base/errors.h"
#include "runtime/topology/amx.h"

namespace tandem {

#if defined(__x86_64__)
namespace {

struct Leaf7 {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// What clang 14's __builtin_cpu_supports has no name for; zeros where the CPU has no such leaf.
Leaf7 cpuid_leaf_7(unsigned subleaf) {
  Leaf7 leaf;
  __get_cpuid_count(7, subleaf, &leaf.eax, &leaf.ebx, &leaf.ecx, &leaf.edx);
  return leaf;
}

bool has_avx_vnni() { return cpuid_leaf_7(0).eax >= 1 && (cpuid_leaf_7(1).eax >> 4 & 1) != 0; }
// The family of an AMD CPU, else 0. Its first digit ends at 15, what is more stands elsewhere.
unsigned amd_family() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__builtin_cpu_is("amd") == 0 || __get_cpuid(1, &eax, &ebx, &ecx, &edx) == 0) return 0;
  const unsigned base = eax >> 8 & 0xf;
  return base == 0xf ? base + (eax >> 20 & 0xff) : base;
}
bool has_avx512_fp16() { return (cpuid_leaf_7(0).edx >> 23 & 1) != 0; }
bool has_amx_bf16() { return (cpuid_leaf_7(0).edx >> 22 & 1) != 0; }

}  // namespace
#endif

std::string_view isa_name(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      return "scalar";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvxVnni:
      return "avx_vnni";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Vnni:
      return "avx512_vnni";
    case CpuIsa::kAvx512VnniZen4:
      return "avx512_vnni_zen4";
    case CpuIsa::kAvx512Bf16:
      return "avx512_bf16";
    case CpuIsa::kAmxBf16:
      return "amx_bf16";
  }
  return "unknown";
}

std::vector<CpuIsa> supported_isas() {
  std::vector<CpuIsa> isas{CpuIsa::kScalar};
#if defined(__x86_64__)
  __builtin_cpu_init();
  // These ask the operating system too (XGETBV): a register set that is not saved is not there.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool avx512_vnni = avx512 && __builtin_cpu_supports("avx512vnni");
  if (avx2) isas.push_back(CpuIsa::kAvx2);
  if (avx2 && has_avx_vnni()) isas.push_back(CpuIsa::kAvxVnni);
  if (avx512) isas.push_back(CpuIsa::kAvx512);
  if (avx512_vnni) {
    isas.push_back(CpuIsa::kAvx512Vnni);
    isas.push_back(CpuIsa::kAvx512VnniZen4);
  }
  const bool avx512_bf16 = avx512_vnni && __builtin_cpu_supports("avx512bf16");
  if (avx512_bf16) isas.push_back(CpuIsa::kAvx512Bf16);
  if (avx512_bf16 && __builtin_cpu_supports("avx512vbmi") && has_avx512_fp16() && has_amx_bf16() &&
      amx_works()) {
    isas.push_back(CpuIsa::kAmxBf16);
  }
#endif
  return isas;
}

bool is_zen4() {
#if defined(__x86_64__)
  // Of family 25 Zen 3 has no AVX-512, and Zen 5 is of another.
  __builtin_cpu_init();
  return amd_family() == 25 && __builtin_cpu_supports("avx512f") != 0;
#else
  return false;
#endif
}

CpuIsa choose_isa(std::span<const CpuIsa> available, const char* forced) {
  if (forced == nullptr || *forced == '\0') return available.back();
  std::string names;
  for (const CpuIsa isa : available) {
    if (isa_name(isa) == forced) return isa;
    names += fmt::format("{}{}", names.empty() ? "" : ", ", isa_name(isa));
  }
  throw ConfigError(
      fmt::format("TANDEM_CPU_ISA is \"{}\", expected one that this CPU has: {}", forced, names));
}

CpuIsa active_isa() { return choose_isa(supported_isas(), std::getenv("TANDEM_CPU_ISA")); }

}  // namespace tandem
