#include "gpu/host/host_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <cstring>
#include <string>

#include "runtime/base/errors.h"

namespace tandem::gpu::host {
namespace {
constexpr size_t kHugePageSizeBytes = size_t{2} << 20;
constexpr size_t kAlignmentBytes = 64;

[[noreturn]] void out_of_memory(size_t size_bytes) {
  throw LoadError("out of memory: no " + std::to_string(size_bytes) +
                  " bytes for weights or work buffers");
}
}  // namespace

HostMemory::HostMemory(size_t size_bytes) : size_bytes_(size_bytes) {
  if (size_bytes > SIZE_MAX - 2 * kHugePageSizeBytes) out_of_memory(size_bytes);
  if (size_bytes < kHugePageSizeBytes) {
    const size_t rounded = (size_bytes / kAlignmentBytes + 1) * kAlignmentBytes;
    data_ = static_cast<std::byte*>(std::aligned_alloc(kAlignmentBytes, rounded));
    if (data_ == nullptr) out_of_memory(size_bytes);
    std::memset(data_, 0, rounded);
    return;
  }
  // One huge page more, so that the data can begin on a huge page's boundary.
  mapped_size_bytes_ = size_bytes + kHugePageSizeBytes;
  mapping_ =
      mmap(nullptr, mapped_size_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    out_of_memory(size_bytes);
  }
  const uintptr_t address = reinterpret_cast<uintptr_t>(mapping_);
  data_ = static_cast<std::byte*>(mapping_) +
          (kHugePageSizeBytes - address % kHugePageSizeBytes) % kHugePageSizeBytes;
  madvise(data_, size_bytes, MADV_HUGEPAGE);  // a hint: without it the pages are small
}

HostMemory::~HostMemory() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapped_size_bytes_);
  } else {
    std::free(data_);
  }
}

}  // namespace tandem::gpu::host
