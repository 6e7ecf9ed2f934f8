// Instruction sets that kernels are written for, and which of them this CPU and its operating
// system have.
#pragma once

#include <span>
#include <string_view>
#include <vector>

namespace tandem {

enum class CpuIsa {
  kScalar,          // any x86-64
  kAvx2,            // AVX2, FMA
  kAvxVnni,         // and AVX-VNNI: dot products of bytes in 32-byte vectors
  kAvx512,          // AVX-512 F, BW, VL, DQ
  kAvx512Vnni,      // and AVX-512 VNNI: dot products of bytes
  kAvx512VnniZen4,  // the same instructions, arranged for a Zen 4
  kAvx512Bf16,      // AVX-512 VNNI and BF16: dot products of BF16 pairs
  kAmxBf16,         // and AMX tiles with BF16 products
};
std::string_view isa_name(CpuIsa isa);  // "scalar", "avx2", "avx_vnni", "avx512", ...

// Of this CPU, from the plainest (always kScalar) to the best.
std::vector<CpuIsa> supported_isas();

// Whether vectors of 512 bits are worked on in two halves.
bool is_zen4();

// The best of `available`; or the one named by `forced`, the value of TANDEM_CPU_ISA, unless that
// is null or empty. Throws ConfigError for a name that is unknown or not of this CPU, listing those
// that are.
CpuIsa choose_isa(std::span<const CpuIsa> available, const char* forced);
CpuIsa active_isa();  // choose_isa(supported_isas(), TANDEM_CPU_ISA of the environment)

}  // namespace tandem
