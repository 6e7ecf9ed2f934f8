// The owners of CUDA resources: memory, streams, events, graphs.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstddef>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "gpu/cuda/current_device.h"
#include "gpu/cuda/device_memory.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/event.h"
#include "gpu/cuda/graph.h"
#include "gpu/cuda/pinned_memory.h"
#include "gpu/cuda/staged_upload.h"
#include "gpu/cuda/stream.h"
#include "runtime/base/errors.h"
#include "tests/gpu/cuda/cuda_test_support.h"

namespace tandem::gpu::cuda {
namespace {

using Catch::Matchers::ContainsSubstring;

std::vector<std::byte> read_back(const DeviceMemory& memory) {
  std::vector<std::byte> host(memory.size_bytes());
  TANDEM_CUDA_CHECK(
      cudaMemcpy(host.data(), memory.as<void>(), host.size(), cudaMemcpyDeviceToHost));
  return host;
}

TEST_CASE("a failed call names itself, the place and the runtime's reason", "[cuda]") {
  // Fails with and without a driver, for different reasons.
  try {
    TANDEM_CUDA_CHECK(cudaSetDevice(4711));
    FAIL("there is no device 4711");
  } catch (const CudaError& error) {
    CHECK_THAT(error.what(), ContainsSubstring("cudaSetDevice(4711)"));
    CHECK_THAT(error.what(), ContainsSubstring(cudaGetErrorString(error.status)));
    CHECK_THAT(error.what(), ContainsSubstring("test_resources.cpp:"));
    CHECK(error.status != cudaSuccess);
  }
}

TEST_CASE("owners of nothing are free without a driver", "[cuda]") {
  DeviceMemory device;
  PinnedMemory pinned;
  device = DeviceMemory(0);
  pinned = PinnedMemory(0);
  CHECK(device.as<void>() == nullptr);
  CHECK(pinned.as<void>() == nullptr);
  CHECK(CapturedGraph().empty());
}

TEST_CASE("device memory is zeroed and moves with its owner", "[gpu]") {
  testing::require_card();
  DeviceMemory memory(1000);
  CHECK(read_back(memory) == std::vector<std::byte>(1000));
  const void* address = memory.as<void>();
  const DeviceMemory moved = std::move(memory);
  CHECK(moved.as<void>() == address);
  CHECK(moved.size_bytes() == 1000);
}

TEST_CASE("more memory than the card has is a LoadError that says what is free", "[gpu]") {
  testing::require_card();
  try {
    const DeviceMemory memory(size_t{1} << 46);
    FAIL("64 TiB on one card");
  } catch (const LoadError& error) {
    CHECK_THAT(error.what(), ContainsSubstring("70368744177664 bytes wanted"));
  }
  CHECK(DeviceMemory(16).size_bytes() == 16);  // the failure did not stick
}

TEST_CASE("streams copy in order and wait for each other's events", "[gpu]") {
  testing::require_card();
  make_current(0);
  const Stream first;
  const Stream second;
  const Event copied(Event::Timing::kOn);
  const Event start(Event::Timing::kOn);
  const PinnedMemory source(size_t{1} << 20);
  const PinnedMemory target(size_t{1} << 20);
  const DeviceMemory device(size_t{1} << 20);
  std::iota(source.as<uint8_t>(), source.as<uint8_t>() + source.size_bytes(), uint8_t{3});
  start.record(first.get());
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(device.as<void>(), source.as<void>(), source.size_bytes(),
                                    cudaMemcpyHostToDevice, first.get()));
  copied.record(first.get());
  second.wait_for(copied);
  TANDEM_CUDA_CHECK(cudaMemcpyAsync(target.as<void>(), device.as<void>(), target.size_bytes(),
                                    cudaMemcpyDeviceToHost, second.get()));
  second.synchronize();
  CHECK(copied.is_done());
  CHECK(copied.elapsed_ms_since(start) >= 0.0f);
  CHECK(std::equal(source.as<uint8_t>(), source.as<uint8_t>() + source.size_bytes(),
                   target.as<uint8_t>()));
}

TEST_CASE("a staged upload of more than the ring holds arrives whole", "[gpu]") {
  testing::require_card();
  make_current(0);
  std::vector<std::byte> source(StagedUpload::kSizeBytes * 3 / 2 + 7);
  for (size_t idx = 0; idx < source.size(); ++idx) {
    source[idx] = static_cast<std::byte>(idx * 37 + idx / 4093);
  }
  const DeviceMemory device(source.size());
  StagedUpload upload;
  upload.upload(source, device.as<std::byte>());
  upload.finish();
  CHECK(read_back(device) == source);
}

TEST_CASE("a captured graph runs when launched, not when recorded, and as often as wanted",
          "[gpu]") {
  testing::require_card();
  const Stream stream;
  const DeviceMemory memory(64);
  const CapturedGraph graph = CapturedGraph::capture(stream, [&] {
    TANDEM_CUDA_CHECK(cudaMemsetAsync(memory.as<void>(), 7, memory.size_bytes(), stream.get()));
  });
  CHECK(graph.num_nodes() == 1);
  CHECK(read_back(memory) == std::vector<std::byte>(64));
  for (int run = 0; run < 2; ++run) {
    graph.launch(stream);
    stream.synchronize();
    CHECK(read_back(memory) == std::vector<std::byte>(64, std::byte{7}));
    // In the graph's own stream: it does not wait for the default one.
    TANDEM_CUDA_CHECK(cudaMemsetAsync(memory.as<void>(), 0, memory.size_bytes(), stream.get()));
  }
}

TEST_CASE("a capture whose work throws leaves the stream usable", "[gpu]") {
  testing::require_card();
  const Stream stream;
  CHECK_THROWS_AS(
      CapturedGraph::capture(stream, [] { throw std::runtime_error("stopped half-way"); }),
      std::runtime_error);
  const DeviceMemory memory(64);
  TANDEM_CUDA_CHECK(cudaMemsetAsync(memory.as<void>(), 1, memory.size_bytes(), stream.get()));
  stream.synchronize();
  CHECK(read_back(memory) == std::vector<std::byte>(64, std::byte{1}));
}

}  // namespace
}  // namespace tandem::gpu::cuda
