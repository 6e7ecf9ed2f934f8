#include "offload/layer_split.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <numeric>
#include <vector>

namespace tandem::offload {
namespace {

TEST_CASE("one device takes all layers, as many devices as layers take one each", "[offload]") {
  const std::vector<int64_t> layers = {5, 1, 1, 1};
  CHECK(split_layers(layers, std::vector<DeviceRoom>{{.room_size_bytes = 100}}) ==
        std::vector<int32_t>{4});
  CHECK(split_layers(layers, std::vector<DeviceRoom>(4, {.room_size_bytes = 100})) ==
        std::vector<int32_t>{1, 1, 1, 1});
}

TEST_CASE("bytes are balanced, not the number of layers", "[offload]") {
  const std::vector<int64_t> layers = {6, 2, 2, 2};
  CHECK(split_layers(layers, std::vector<DeviceRoom>(2, {.room_size_bytes = 100})) ==
        std::vector<int32_t>{1, 3});
}

TEST_CASE("what lies on a device anyway counts, and so does its size", "[offload]") {
  const std::vector<int64_t> layers(10, 1);
  CHECK(split_layers(layers, std::vector<DeviceRoom>{
                                 {.fixed_size_bytes = 4, .room_size_bytes = 100},
                                 {.room_size_bytes = 100}}) == std::vector<int32_t>{3, 7});
  CHECK(split_layers(layers,
                     std::vector<DeviceRoom>{{.room_size_bytes = 40}, {.room_size_bytes = 10}}) ==
        std::vector<int32_t>{8, 2});
}

TEST_CASE("devices without any room still get a split", "[offload]") {
  const std::vector<int64_t> layers(4, 10);
  CHECK(split_layers(layers,
                     std::vector<DeviceRoom>{{.room_size_bytes = 0}, {.room_size_bytes = -5}}) ==
        std::vector<int32_t>{2, 2});
}

TEST_CASE("no other split has a fullest device that is less full", "[offload]") {
  uint64_t state = 12345;
  const auto draw = [&](int64_t limit) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(limit));
  };
  for (int round = 0; round < 200; ++round) {
    std::vector<int64_t> layers(8);
    for (int64_t& size_bytes : layers) size_bytes = 1 + draw(50);
    std::vector<DeviceRoom> devices(3);
    for (DeviceRoom& device : devices) {
      device = {.fixed_size_bytes = draw(60), .room_size_bytes = 100 + draw(100)};
    }
    const auto fullest = [&](const std::vector<int32_t>& split) {
      double share = 0.0;
      auto layer = layers.begin();
      for (size_t idx = 0; idx < devices.size(); ++idx) {
        const int64_t size_bytes =
            std::accumulate(layer, layer + split[idx], devices[idx].fixed_size_bytes);
        layer += split[idx];
        share = std::max(share, static_cast<double>(size_bytes) /
                                    static_cast<double>(devices[idx].room_size_bytes));
      }
      return share;
    };
    const std::vector<int32_t> chosen = split_layers(layers, devices);
    REQUIRE(std::accumulate(chosen.begin(), chosen.end(), 0) == 8);
    for (int32_t first = 1; first <= 6; ++first) {
      for (int32_t second = 1; first + second <= 7; ++second) {
        CHECK(fullest(chosen) <= fullest({first, second, 8 - first - second}));
      }
    }
  }
}

}  // namespace
}  // namespace tandem::offload
