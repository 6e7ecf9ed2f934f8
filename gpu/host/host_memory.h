// Memory of the host as a device: zeroed, aligned, on huge pages where it is large. Pages are
// placed by the thread that writes them first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "gpu/ops.h"

namespace tandem::gpu::host {

class HostMemory {
 public:
  HostMemory() = default;
  explicit HostMemory(size_t size_bytes);  // throws LoadError where the machine has not so much
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept { swap(other); }
  HostMemory& operator=(HostMemory&& other) noexcept {
    swap(other);
    return *this;
  }

  [[nodiscard]] size_t size_bytes() const { return size_bytes_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  void swap(HostMemory& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    std::swap(mapped_size_bytes_, other.mapped_size_bytes_);
    std::swap(mapping_, other.mapping_);
  }

  std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
  void* mapping_ = nullptr;  // null: from the allocator
  size_t mapped_size_bytes_ = 0;
};

class HostBuffer : public DeviceBuffer {
 public:
  explicit HostBuffer(size_t size_bytes) : memory_(size_bytes) {}
  [[nodiscard]] std::byte* data() const override { return memory_.as<std::byte>(); }
  [[nodiscard]] size_t size_bytes() const override { return memory_.size_bytes(); }

 private:
  HostMemory memory_;
};

}  // namespace tandem::gpu::host
