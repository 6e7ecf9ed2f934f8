#include "gpu/devices.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_exception.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <string>
#include <vector>

#include "runtime/base/errors.h"

namespace tandem::gpu {
namespace {

using Catch::Matchers::ContainsSubstring;
using Catch::Matchers::MessageMatches;

CudaSupport machine_with_cards(int num_cards) {
  CudaSupport support{.in_build = true, .runtime_version = "13.0", .devices = {}, .problem = ""};
  for (int idx = 0; idx < num_cards; ++idx) {
    support.devices.push_back(
        {.name = "NVIDIA H100", .memory_size_bytes = int64_t{80} << 30, .compute_capability = 90});
  }
  if (num_cards == 0) support.problem = "no CUDA-capable device is detected";
  return support;
}

std::vector<int32_t> cards_of(const std::string& gpus, int num_cards) {
  std::vector<int32_t> cards;
  for (const LogicalDevice& device : choose_devices(gpus, machine_with_cards(num_cards))) {
    cards.push_back(device.card_idx);
  }
  return cards;
}

constexpr int32_t kHost = LogicalDevice::kHost;

TEST_CASE("without a wish the first card is taken, or the host where there is none", "[gpu]") {
  CHECK(cards_of("", 2) == std::vector<int32_t>{0});
  CHECK(cards_of("", 0) == std::vector<int32_t>{kHost});
}

TEST_CASE("without a wish a card that the kernels are not for is passed over, and said to be",
          "[gpu]") {
  CudaSupport support = machine_with_cards(2);
  support.devices[0].name = "Tesla T4";
  support.devices[0].compute_capability = 75;
  CHECK(choose_devices("", support) == std::vector<LogicalDevice>{{.card_idx = 1}});
  CHECK_THAT(describe(support),
             ContainsSubstring("Tesla T4 (sm_75: not used, expected is sm_80 or later, 80.0 GiB), "
                               "NVIDIA H100 (sm_90, 80.0 GiB)"));
  CHECK(choose_devices("0", support) == std::vector<LogicalDevice>{{.card_idx = 0}});
  support.devices.pop_back();
  CHECK(choose_devices("", support) == std::vector<LogicalDevice>{{}});
}

TEST_CASE("cards are taken in the order named, the same one twice as well", "[gpu]") {
  CHECK(cards_of("none", 2) == std::vector<int32_t>{kHost});
  CHECK(cards_of("1", 2) == std::vector<int32_t>{1});
  CHECK(cards_of("1,0", 2) == std::vector<int32_t>{1, 0});
  CHECK(cards_of("0,0", 1) == std::vector<int32_t>{0, 0});
  CHECK(cards_of("none,none", 0) == std::vector<int32_t>{kHost, kHost});
}

TEST_CASE("a card that is not there is refused with the reason", "[gpu]") {
  CHECK_THROWS_MATCHES(cards_of("0,2", 2), ConfigError,
                       MessageMatches(ContainsSubstring("--gpus 0,2: there is no card 2") &&
                                      ContainsSubstring("at most 1")));
  CHECK_THROWS_MATCHES(
      cards_of("0", 0), ConfigError,
      MessageMatches(ContainsSubstring("no CUDA-capable device") && ContainsSubstring("none")));
  CHECK_THROWS_MATCHES(choose_devices("0", {.problem = "built without CUDA"}), ConfigError,
                       MessageMatches(ContainsSubstring("built without CUDA")));
}

TEST_CASE("anything else than cards and none is refused with what is expected", "[gpu]") {
  for (const char* gpus : {",", "0,", "all", "-1", "0x", "0 1", "1.5", "99999999999", "None"}) {
    INFO(gpus);
    CHECK_THROWS_MATCHES(cards_of(gpus, 2), ConfigError,
                         MessageMatches(ContainsSubstring("expected none, or cards")));
  }
  CHECK_THROWS_MATCHES(cards_of("0,none", 2), ConfigError,
                       MessageMatches(ContainsSubstring("do not go together")));
  CHECK_THROWS_MATCHES(
      cards_of("0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0", 2), ConfigError,
      MessageMatches(ContainsSubstring("17 logical devices, expected at most 16")));
}

TEST_CASE("a card gives memory in pages, small things share one", "[gpu]") {
  const LogicalDevice card{.card_idx = 0};
  constexpr int64_t kMiB = int64_t{1} << 20;
  CHECK(allocation_size_bytes({}, 3 * kMiB + 1) == 3 * kMiB + 1);
  CHECK(allocation_size_bytes(card, 1) == 512);
  CHECK(allocation_size_bytes(card, 1000) == 1024);
  CHECK(allocation_size_bytes(card, 2 * kMiB) == 2 * kMiB);
  CHECK(allocation_size_bytes(card, 2 * kMiB + 1) == 4 * kMiB);
}

TEST_CASE("the description names build, cards and why there are none", "[gpu]") {
  CHECK(describe(machine_with_cards(1)) == "CUDA 13.0 in the build, NVIDIA H100 (sm_90, 80.0 GiB)");
  CHECK_THAT(describe(machine_with_cards(0)), ContainsSubstring("no CUDA-capable device"));
  CHECK(describe({.problem = "built without CUDA"}) == "built without CUDA");
}

}  // namespace
}  // namespace tandem::gpu
