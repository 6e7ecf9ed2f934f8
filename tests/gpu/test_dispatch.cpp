#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>

#include "runtime/base/errors.h"
#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {

TEST_CASE("every supported instruction set can be forced by its name", "[gpu][host][dispatch]") {
  const host::Kernels& kernels = kernels_under_test();
  CHECK(&host::choose_kernels(kernels.isa_name) == &kernels);
  WorkerPool pool = make_pool(1);
  CHECK(host::make_host_ops(pool, kernels)->description().starts_with("host, "));
}

TEST_CASE("with no name, or an empty one, the best instruction set is chosen",
          "[gpu][host][dispatch]") {
  const host::Kernels& best = host::choose_kernels(nullptr);
  CHECK(&host::choose_kernels("") == &best);
  // The last, or where that is passed over the one before.
  const auto supported = host::supported_kernels();
  CHECK((&best == supported.back() || &best == supported[supported.size() - 2]));
}

TEST_CASE("of Intel's sets the one with BF16 dot products is passed over, but not AMX",
          "[gpu][host][dispatch]") {
  const std::vector<CpuIsa> up_to_pairs = {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                           CpuIsa::kAvx512Vnni, CpuIsa::kAvx512Bf16};
  CHECK(host::best_isa(up_to_pairs, true) == CpuIsa::kAvx512);
  CHECK(host::best_isa(up_to_pairs, false) == CpuIsa::kAvx512Bf16);
  std::vector<CpuIsa> all = up_to_pairs;
  all.push_back(CpuIsa::kAmxBf16);
  CHECK(host::best_isa(all, true) == CpuIsa::kAmxBf16);
  CHECK(host::best_isa(std::vector{CpuIsa::kScalar, CpuIsa::kAvx2}, true) == CpuIsa::kAvx2);
}

TEST_CASE("an unknown instruction set is refused with the names of those at hand",
          "[gpu][host][dispatch]") {
  for (const char* name : {"avx9", "AVX2", "scalar "}) {
    CHECK_THROWS_AS(host::choose_kernels(name), ConfigError);
    CHECK_THROWS_WITH(host::choose_kernels(name), Catch::Matchers::ContainsSubstring(name) &&
                                                      Catch::Matchers::ContainsSubstring("scalar"));
  }
}

}  // namespace tandem::gpu::testing
