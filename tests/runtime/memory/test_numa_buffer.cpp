#include "runtime/memory/numa_buffer.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstring>
#include <fstream>
#include <string>
#include <utility>

#include "runtime/base/errors.h"

namespace tandem::tests {
namespace {

constexpr int64_t kMiB = 1 << 20;

TEST_CASE("a buffer of any size begins at a huge page, is zeroed and can be written to its end",
          "[memory]") {
  for (const int node_os_idx : {-1, 0, 100'000}) {
    for (const int64_t size_bytes : {int64_t{1}, int64_t{4097}, 2 * kMiB - 1, 2 * kMiB, 5 * kMiB}) {
      const NumaBuffer buffer(size_bytes, node_os_idx);
      CHECK(buffer.size_bytes() == size_bytes);
      CHECK(reinterpret_cast<uintptr_t>(buffer.data()) % (2 * kMiB) == 0);
      CHECK(std::all_of(buffer.data(), buffer.data() + size_bytes,
                        [](std::byte value) { return value == std::byte{0}; }));
      std::memset(buffer.data(), 0xA5, static_cast<size_t>(size_bytes));
    }
  }
  CHECK(NumaBuffer(0, 0).data() == nullptr);
}

TEST_CASE("moving a buffer hands its memory on", "[memory]") {
  NumaBuffer first(kMiB, -1);
  std::byte* const data = first.data();
  data[7] = std::byte{42};
  NumaBuffer second(std::move(first));
  CHECK(second.data() == data);
  CHECK(first.data() == nullptr);  // NOLINT(bugprone-use-after-move): the state is defined
  NumaBuffer third(kMiB, -1);
  third = std::move(second);
  CHECK(third.data()[7] == std::byte{42});
}

TEST_CASE("memory that cannot be had is an error that names the amount", "[memory]") {
  CHECK_THROWS_AS(NumaBuffer(int64_t{1} << 50, -1), LoadError);
  CHECK_THROWS_WITH(NumaBuffer(int64_t{1} << 50, -1),
                    Catch::Matchers::ContainsSubstring("no memory for 1048576.000 GiB"));
}

TEST_CASE("what the system gave is read back: nothing before the first touch, all of it after",
          "[memory]") {
  const NumaBuffer buffer(32 * kMiB, 0);
  CHECK(read_page_use(buffer.data(), buffer.size_bytes(), 0).resident_size_bytes == 0);
  std::memset(buffer.data(), 1, static_cast<size_t>(buffer.size_bytes()));
  const PageUse use = read_page_use(buffer.data(), buffer.size_bytes(), 0);
  CHECK(use.resident_size_bytes == buffer.size_bytes());
  CHECK(use.huge_size_bytes <= use.resident_size_bytes);
  CHECK(use.remote_size_bytes == 0);
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string choice;
  std::getline(file, choice);
  if (choice.empty() || choice.find("[never]") != std::string::npos) {
    SKIP("the system gives no transparent huge pages");
  }
  CHECK(use.huge_size_bytes > 0);
}

TEST_CASE("page use is described with what is wrong about it", "[memory]") {
  constexpr int64_t kGiB = 1 << 30;
  CHECK(describe({.resident_size_bytes = 3 * kGiB, .huge_size_bytes = 3 * kGiB}) ==
        "3.000 GiB in huge pages of 2 MiB");
  PageUse use{.resident_size_bytes = kGiB};
  use += {.resident_size_bytes = kGiB, .huge_size_bytes = kGiB / 2, .remote_size_bytes = kGiB / 4};
  CHECK(describe(use) ==
        "2.000 GiB, only 0.500 of it in huge pages of 2 MiB, 0.250 on another node than planned");
}

}  // namespace
}  // namespace tandem::tests
