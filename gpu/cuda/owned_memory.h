// What the owners of memory share: an address, a size, and how the memory is given back.
#pragma once

#include <cstddef>
#include <utility>

namespace tandem::gpu::cuda {

class OwnedMemory {
 public:
  OwnedMemory(OwnedMemory&& other) noexcept
      : free_(other.free_),
        data_(std::exchange(other.data_, nullptr)),
        size_bytes_(std::exchange(other.size_bytes_, 0)) {}
  OwnedMemory& operator=(OwnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_bytes_, other.size_bytes_);
    return *this;
  }

  [[nodiscard]] size_t size_bytes() const { return size_bytes_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 protected:
  OwnedMemory(void (*free)(void* data), size_t size_bytes) : free_(free), size_bytes_(size_bytes) {}
  ~OwnedMemory() { free_(data_); }

  void (*free_)(void* data);
  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace tandem::gpu::cuda
