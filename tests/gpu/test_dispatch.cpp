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
  CHECK(&host::choose_kernels(nullptr) == host::supported_kernels().back());
  CHECK(&host::choose_kernels("") == host::supported_kernels().back());
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
