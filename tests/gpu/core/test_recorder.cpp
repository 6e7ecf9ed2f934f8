#include "gpu/cuda/core/recorder.h"

#include <catch2/catch_test_macros.hpp>
#include <functional>
#include <vector>

namespace tandem::gpu::cuda {
namespace {

// A device whose graphs are lists of what was enqueued while they were recorded.
struct Device {
  using Log = std::vector<int>;
  void step(int32_t num_rows, const std::vector<Log>& segments) {
    recorder.begin_step(num_rows);
    for (const Log& segment : segments) {
      for (const int value : segment) recorder.enqueue([this, value] { target->push_back(value); });
      recorder.end_segment(
          [this](const std::function<void()>& work) {
            Log graph;
            target = &graph;
            work();
            target = &done;
            ++num_captures;
            return graph;
          },
          [this](const Log& graph) {
            done.insert(done.end(), graph.begin(), graph.end());
            ++num_launches;
          });
    }
  }
  Log take() { return std::exchange(done, {}); }

  Recorder<Log> recorder;
  Log done;
  Log* target = &done;
  int num_captures = 0;
  int num_launches = 0;
};

}  // namespace

TEST_CASE("a decode step runs, is recorded, and is then replayed without its operations",
          "[gpu][host]") {
  Device device;
  const std::vector<Device::Log> segments{{1, 2}, {3}, {}, {4, 5}};
  for (int repeat = 0; repeat < 5; ++repeat) {
    device.step(4, segments);
    CHECK(device.take() == Device::Log{1, 2, 3, 4, 5});
    CHECK(device.num_captures == (repeat == 0 ? 0 : 3));  // an empty segment is none
    CHECK(device.num_launches == 3 * repeat);
  }
  // What is asked for in a replayed segment is not looked at.
  device.step(4, {{7}, {7}, {7}});
  CHECK(device.take() == Device::Log{1, 2, 3, 4, 5});
}

TEST_CASE("steps of other sizes have recordings of their own, and prefills none", "[gpu][host]") {
  Device device;
  for (int repeat = 0; repeat < 3; ++repeat) {
    device.step(1, {{1}});
    device.step(0, {{10 + repeat}, {20 + repeat}});
    device.step(2, {{2}, {3}});
    CHECK(device.take() == Device::Log{1, 10 + repeat, 20 + repeat, 2, 3});
  }
  CHECK(device.num_captures == 3);
}

}  // namespace tandem::gpu::cuda
