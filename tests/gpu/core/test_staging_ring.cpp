#include "gpu/cuda/core/staging_ring.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

namespace tandem::gpu::cuda {
namespace {

std::vector<std::byte> bytes(size_t size) {
  std::vector<std::byte> values(size);
  for (size_t idx = 0; idx < size; ++idx)
    values[idx] = static_cast<std::byte>(idx * 37 + idx / 251);
  return values;
}

// Copies as late as it may: when somebody waits for the slot. A slot that is filled again before
// that delivers the wrong bytes.
class LateCopies : public CopyEngine {
 public:
  explicit LateCopies(int32_t num_slots) : pending_(static_cast<size_t>(num_slots)) {}

  void start_copy(int32_t slot_idx, std::span<const std::byte> staged, std::byte* device) override {
    log += "copy" + std::to_string(slot_idx) + " ";
    pending_[static_cast<size_t>(slot_idx)] = Copy{staged, device};
  }
  void wait_for_slot(int32_t slot_idx) override {
    log += "wait" + std::to_string(slot_idx) + " ";
    std::optional<Copy>& copy = pending_[static_cast<size_t>(slot_idx)];
    if (copy) std::copy(copy->staged.begin(), copy->staged.end(), copy->device);
    copy.reset();
  }

  std::string log;

 private:
  struct Copy {
    std::span<const std::byte> staged;
    std::byte* device;
  };
  std::vector<std::optional<Copy>> pending_;
};

TEST_CASE("every byte arrives for every size around the slots' and any number of slots",
          "[gpu_core]") {
  for (const int32_t num_slots : {1, 2, 3}) {
    for (const size_t size : {0, 1, 15, 16, 17, 31, 32, 33, 48, 100}) {
      INFO(num_slots << " slots of 16 bytes, " << size << " bytes");
      std::vector<std::byte> staging(static_cast<size_t>(num_slots) * 16);
      LateCopies copies(num_slots);
      StagingRing ring(staging, num_slots, copies);
      const std::vector<std::byte> source = bytes(size);
      std::vector<std::byte> device(size + 1, std::byte{0xEE});
      ring.upload(source, device.data());
      ring.finish();
      CHECK(std::equal(source.begin(), source.end(), device.begin()));
      CHECK(device.back() == std::byte{0xEE});
      CHECK(ring.uploaded_size_bytes() == static_cast<int64_t>(size));
    }
  }
}

TEST_CASE("uploads follow each other through the same slots, and the source is free on return",
          "[gpu_core]") {
  std::vector<std::byte> staging(64);
  LateCopies copies(2);
  StagingRing ring(staging, 2, copies);
  const std::vector<std::byte> expected = bytes(150);
  std::vector<std::byte> device(150);
  size_t done = 0;
  for (const size_t size : {5u, 70u, 32u, 1u, 42u}) {
    std::vector<std::byte> source(expected.begin() + static_cast<int64_t>(done),
                                  expected.begin() + static_cast<int64_t>(done + size));
    ring.upload(source, device.data() + done);
    std::fill(source.begin(), source.end(), std::byte{0});
    done += size;
  }
  ring.finish();
  CHECK(device == expected);
}

TEST_CASE("a slot is filled while the copy of the other is under way", "[gpu_core]") {
  std::vector<std::byte> staging(32);
  LateCopies copies(2);
  StagingRing ring(staging, 2, copies);
  std::vector<std::byte> device(64);
  ring.upload(bytes(64), device.data());
  CHECK(copies.log == "wait0 copy0 wait1 copy1 wait0 copy0 wait1 copy1 ");
}

}  // namespace
}  // namespace tandem::gpu::cuda
