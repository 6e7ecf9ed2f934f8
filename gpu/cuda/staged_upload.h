// Uploads to one card: a ring of pinned memory and a stream of its own.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

namespace tandem::gpu::cuda {

class StagedUpload {
 public:
  // On the current device. Throws CudaError.
  StagedUpload();
  ~StagedUpload();

  // See StagingRing: on return `source` is free again; finish() before the bytes are used.
  void upload(std::span<const std::byte> source, std::byte* device);
  void finish();

  // Pinned memory that one takes while it lives.
  static constexpr size_t kSizeBytes = size_t{64} << 20;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::gpu::cuda
