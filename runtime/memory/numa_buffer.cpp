#include "runtime/memory/numa_buffer.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/errors.h"

namespace tandem {
namespace {

constexpr size_t kHugePageSizeBytes = size_t{2} << 20;

// Prefers the node without insisting: a full node must slow a start down, not end it.
void prefer_node(void* address, size_t size_bytes, int node_os_idx) {
  std::array<unsigned long, 16> mask{};  // NOLINT(google-runtime-int): the kernel's type
  constexpr size_t kBitsAWord = 8 * sizeof(mask[0]);
  if (node_os_idx < 0 || static_cast<size_t>(node_os_idx) >= mask.size() * kBitsAWord) return;
  mask[static_cast<size_t>(node_os_idx) / kBitsAWord] |=
      1UL << (static_cast<size_t>(node_os_idx) % kBitsAWord);
  static_cast<void>(syscall(SYS_mbind, address, size_bytes, MPOL_PREFERRED, mask.data(),
                            mask.size() * kBitsAWord, 0));
}

}  // namespace

NumaBuffer::NumaBuffer(int64_t size_bytes, int node_os_idx) : size_bytes_(size_bytes) {
  if (size_bytes <= 0) return;
  // One huge page more, so that the buffer can begin at a boundary.
  mapping_size_bytes_ =
      (static_cast<size_t>(size_bytes) / kHugePageSizeBytes + 2) * kHugePageSizeBytes;
  mapping_ = mmap(nullptr, mapping_size_bytes_, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping_ == MAP_FAILED) {
    mapping_ = nullptr;
    throw LoadError(fmt::format("no memory for {:.3f} GiB: {}",
                                static_cast<double>(size_bytes) / static_cast<double>(1 << 30),
                                std::strerror(errno)));
  }
  const auto address = reinterpret_cast<uintptr_t>(mapping_);
  data_ = reinterpret_cast<std::byte*>((address + kHugePageSizeBytes - 1) / kHugePageSizeBytes *
                                       kHugePageSizeBytes);
  static_cast<void>(madvise(mapping_, mapping_size_bytes_, MADV_HUGEPAGE));
  prefer_node(mapping_, mapping_size_bytes_, node_os_idx);
}

NumaBuffer::NumaBuffer(NumaBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_size_bytes_(std::exchange(other.mapping_size_bytes_, 0)) {}

NumaBuffer& NumaBuffer::operator=(NumaBuffer&& other) noexcept {
  if (this == &other) return *this;
  release();
  data_ = std::exchange(other.data_, nullptr);
  size_bytes_ = std::exchange(other.size_bytes_, 0);
  mapping_ = std::exchange(other.mapping_, nullptr);
  mapping_size_bytes_ = std::exchange(other.mapping_size_bytes_, 0);
  return *this;
}

NumaBuffer::~NumaBuffer() { release(); }

void NumaBuffer::release() noexcept {
  if (mapping_ != nullptr) munmap(mapping_, mapping_size_bytes_);
  mapping_ = nullptr;
}

}  // namespace tandem
