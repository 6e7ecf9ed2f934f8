// Memory of the current device, owned. Taken at start-up only: a step allocates nothing.
#pragma once

#include <cstddef>

#include "gpu/ops.h"

namespace tandem::gpu::cuda {

class DeviceMemory {
 public:
  DeviceMemory() = default;
  // On the current device, zeroed, 256-byte aligned. Throws LoadError where the card has not so
  // much, naming what is free.
  explicit DeviceMemory(size_t size_bytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

  [[nodiscard]] size_t size_bytes() const { return size_bytes_; }
  template <typename T>
  [[nodiscard]] T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t size_bytes_ = 0;
};

class CudaBuffer : public DeviceBuffer {
 public:
  explicit CudaBuffer(size_t size_bytes) : memory_(size_bytes) {}
  [[nodiscard]] std::byte* data() const override { return memory_.as<std::byte>(); }
  [[nodiscard]] size_t size_bytes() const override { return memory_.size_bytes(); }

 private:
  DeviceMemory memory_;
};

}  // namespace tandem::gpu::cuda
