#include "gpu/cuda/core/staging_ring.h"

#include <algorithm>
#include <cstring>

#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

StagingRing::StagingRing(std::span<std::byte> staging, int32_t num_slots, CopyEngine& engine)
    : staging_(staging),
      slot_size_bytes_(staging.size() / static_cast<size_t>(std::max(num_slots, 1))),
      num_slots_(num_slots),
      engine_(engine) {
  TANDEM_CHECK(num_slots > 0 && slot_size_bytes_ > 0, "a staging ring needs slots of some size");
}

void StagingRing::upload(std::span<const std::byte> source, std::byte* device) {
  while (!source.empty()) {
    const size_t piece_size_bytes = std::min(source.size(), slot_size_bytes_);
    const std::span<std::byte> slot =
        staging_.subspan(static_cast<size_t>(next_slot_idx_) * slot_size_bytes_, piece_size_bytes);
    engine_.wait_for_slot(next_slot_idx_);
    std::memcpy(slot.data(), source.data(), piece_size_bytes);
    engine_.start_copy(next_slot_idx_, slot, device);
    next_slot_idx_ = (next_slot_idx_ + 1) % num_slots_;
    uploaded_size_bytes_ += static_cast<int64_t>(piece_size_bytes);
    source = source.subspan(piece_size_bytes);
    device += piece_size_bytes;
  }
}

void StagingRing::finish() {
  for (int32_t slot_idx = 0; slot_idx < num_slots_; ++slot_idx) engine_.wait_for_slot(slot_idx);
}

}  // namespace tandem::gpu::cuda
