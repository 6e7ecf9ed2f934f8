// Which kernels a step gets, by what the CPU has and how many tokens an expert has.
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <string>
#include <vector>

#include "cpu_experts/dispatch.h"
#include "runtime/base/errors.h"

namespace tandem::tests {
namespace {

using cpu_experts::ActivationMode;
using cpu_experts::choose_kernels;
using cpu_experts::KernelChoice;

// From the plainest to `best`, as supported_isas() lists them.
std::vector<CpuIsa> isas_up_to(CpuIsa best) {
  std::vector<CpuIsa> isas;
  for (int isa = 0; isa <= static_cast<int>(best); ++isa) isas.push_back(static_cast<CpuIsa>(isa));
  return isas;
}

TEST_CASE("tiles take the steps with many tokens an expert, also where activations may be bytes",
          "[cpu_experts][dispatch]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const KernelChoice choice = choose_kernels(mode, isas_up_to(CpuIsa::kAmxBf16), false, nullptr);
  CHECK(choice.name() == "avx512_vnni and amx_bf16");
  const int many = mode == ActivationMode::kBf16 ? 8 : 12;
  CHECK(choice.isa_for(1, 1) == CpuIsa::kAvx512Vnni);
  CHECK(choice.isa_for(100 * many - 1, 100) == CpuIsa::kAvx512Vnni);
  CHECK(choice.isa_for(100 * many, 100) == CpuIsa::kAmxBf16);
  CHECK(&cpu_experts::kernels_of(CpuIsa::kAmxBf16, mode) ==
        (mode == ActivationMode::kBf16 ? &cpu_experts::amx_bf16_kernels()->exact
                                       : &cpu_experts::amx_bf16_kernels()->rounded));
}

TEST_CASE("without tiles one set serves every step, that of integers", "[cpu_experts][dispatch]") {
  const ActivationMode mode = GENERATE(ActivationMode::kBf16, ActivationMode::kInt8);
  const bool zen4 = GENERATE(false, true);
  for (const CpuIsa best : isas_up_to(CpuIsa::kAvx512Bf16)) {
    const KernelChoice choice = choose_kernels(mode, isas_up_to(best), zen4, "");
    const CpuIsa of_vnni = zen4 ? CpuIsa::kAvx512VnniZen4 : CpuIsa::kAvx512Vnni;
    const CpuIsa expected = best >= CpuIsa::kAvx512Vnni ? of_vnni : best;
    CHECK(choice.isa_for(1, 1) == expected);
    CHECK(choice.isa_for(1000, 1) == expected);
    CHECK(choice.name() == isa_name(expected));
  }
}

TEST_CASE("a forced set serves every step, and one that the CPU lacks is refused",
          "[cpu_experts][dispatch]") {
  const std::vector<CpuIsa> isas = isas_up_to(CpuIsa::kAmxBf16);
  for (const CpuIsa isa : isas) {
    const KernelChoice choice =
        choose_kernels(ActivationMode::kInt8, isas, true, std::string(isa_name(isa)).c_str());
    CHECK(choice.isa_for(1, 1) == isa);
    CHECK(choice.isa_for(1000, 1) == isa);
  }
  CHECK_THROWS_AS(
      choose_kernels(ActivationMode::kBf16, isas_up_to(CpuIsa::kAvx2), false, "amx_bf16"),
      ConfigError);
}

}  // namespace
}  // namespace tandem::tests
