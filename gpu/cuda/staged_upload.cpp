#include "gpu/cuda/staged_upload.h"

#include <array>
#include <cstdint>

#include "gpu/cuda/core/staging_ring.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/event.h"
#include "gpu/cuda/pinned_memory.h"
#include "gpu/cuda/stream.h"

namespace tandem::gpu::cuda {
namespace {

// A copy of 32 MiB takes longer than what is lost between two of them.
constexpr int32_t kNumSlots = 2;

class StreamCopies : public CopyEngine {
 public:
  void start_copy(int32_t slot_idx, std::span<const std::byte> staged, std::byte* device) override {
    TANDEM_CUDA_CHECK(cudaMemcpyAsync(device, staged.data(), staged.size(), cudaMemcpyHostToDevice,
                                      stream_.get()));
    copied_[static_cast<size_t>(slot_idx)].record(stream_.get());
  }
  void wait_for_slot(int32_t slot_idx) override {
    copied_[static_cast<size_t>(slot_idx)].synchronize();
  }

 private:
  Stream stream_;
  std::array<Event, kNumSlots> copied_;
};

}  // namespace

struct StagedUpload::Impl {
  PinnedMemory staging{kSizeBytes};
  StreamCopies copies;
  StagingRing ring{{staging.as<std::byte>(), kSizeBytes}, kNumSlots, copies};
  ~Impl() {
    // Pinned memory may not go while a copy reads it; what failed was thrown by upload or finish.
    try {
      ring.finish();
    } catch (const CudaError& error) {
      log_failure(error.status, "cudaEventSynchronize");
    }
  }
};

StagedUpload::StagedUpload() : impl_(std::make_unique<Impl>()) {}
StagedUpload::~StagedUpload() = default;

void StagedUpload::upload(std::span<const std::byte> source, std::byte* device) {
  impl_->ring.upload(source, device);
}

void StagedUpload::finish() { impl_->ring.finish(); }

}  // namespace tandem::gpu::cuda
