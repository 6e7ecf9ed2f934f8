// Uploads from pageable memory (the mapped checkpoint) by way of pinned memory: while the device
// copies one piece the next is read.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tandem::gpu::cuda {

// Who copies from the slots to the device. gpu/cuda has a stream and an event per slot.
class CopyEngine {
 public:
  virtual ~CopyEngine() = default;
  // Begins to copy a slot's first bytes to the device; behind all earlier copies.
  virtual void start_copy(int32_t slot_idx,
                          std::span<const std::byte> staged,
                          std::byte* device) = 0;
  // Waits until the slot's latest copy is done; at once when there was none.
  virtual void wait_for_slot(int32_t slot_idx) = 0;
};

class StagingRing {
 public:
  // `staging` is cut into `num_slots` equal slots, at least two for an overlap. It and `engine`
  // outlive the ring.
  StagingRing(std::span<std::byte> staging, int32_t num_slots, CopyEngine& engine);

  // Copies `source` to `device`, piece by piece. On return `source` is free again, while the last
  // pieces may still be on their way: finish() waits for them.
  void upload(std::span<const std::byte> source, std::byte* device);
  void finish();

  [[nodiscard]] int64_t uploaded_size_bytes() const { return uploaded_size_bytes_; }

 private:
  std::span<std::byte> staging_;
  size_t slot_size_bytes_;
  int32_t num_slots_;
  CopyEngine& engine_;
  int32_t next_slot_idx_ = 0;
  int64_t uploaded_size_bytes_ = 0;
};

}  // namespace tandem::gpu::cuda
