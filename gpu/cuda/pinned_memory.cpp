#include "gpu/cuda/pinned_memory.h"

#include <cstring>
#include <utility>

#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {

PinnedMemory::PinnedMemory(size_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes == 0) return;
  TANDEM_CUDA_CHECK(cudaHostAlloc(&data_, size_bytes, cudaHostAllocPortable | cudaHostAllocMapped));
  std::memset(data_, 0, size_bytes);
}

PinnedMemory::~PinnedMemory() { log_failure(cudaFreeHost(data_), "cudaFreeHost"); }

PinnedMemory::PinnedMemory(PinnedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

PinnedMemory& PinnedMemory::operator=(PinnedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_bytes_, other.size_bytes_);
  return *this;
}

}  // namespace tandem::gpu::cuda
