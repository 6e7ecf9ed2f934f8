#include "gpu/cuda/pinned_memory.h"

#include <cstring>

#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {

namespace {

void give_back(void* data) { log_failure(cudaFreeHost(data), "cudaFreeHost"); }

}  // namespace

PinnedMemory::PinnedMemory() : PinnedMemory(0) {}

PinnedMemory::PinnedMemory(size_t size_bytes) : OwnedMemory(give_back, size_bytes) {
  if (size_bytes == 0) return;
  TANDEM_CUDA_CHECK(cudaHostAlloc(&data_, size_bytes, cudaHostAllocPortable | cudaHostAllocMapped));
  std::memset(data_, 0, size_bytes);
}

}  // namespace tandem::gpu::cuda
