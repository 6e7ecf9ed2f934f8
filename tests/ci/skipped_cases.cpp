// Cases that skipped_test runs: one that is skipped, some that fail.
#include <catch2/catch_test_macros.hpp>

namespace tandem {
namespace {

TEST_CASE("a case that cannot be tried here", "[skipped]") {
  SECTION("a section of it") { SKIP("there is no moon"); }
}

TEST_CASE("a case with four failed assertions", "[failed]") {
  for (int i = 0; i < 4; ++i) CHECK(i < 0);
}

}  // namespace
}  // namespace tandem
