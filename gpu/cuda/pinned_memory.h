// Host memory that every device copies from and to at full speed and reads directly, owned.
#pragma once

#include <cstddef>

namespace tandem::gpu::cuda {

class PinnedMemory {
 public:
  PinnedMemory() = default;
  // Zeroed, page-aligned. Throws CudaError.
  explicit PinnedMemory(size_t size_bytes);
  ~PinnedMemory();
  PinnedMemory(PinnedMemory&& other) noexcept;
  PinnedMemory& operator=(PinnedMemory&& other) noexcept;

  [[nodiscard]] size_t size_bytes() const { return size_bytes_; }
  // One address for host and devices.
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace tandem::gpu::cuda
