// Memory of one NUMA node in huge pages where the system gives them: one of the four owners of
// memory.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem {

class NumaBuffer {
 public:
  NumaBuffer() = default;
  // Zeroed on first touch. `node_os_idx` < 0: wherever the thread runs that touches a page first.
  // Throws LoadError naming the amount and the system's reason.
  NumaBuffer(int64_t size_bytes, int node_os_idx);
  NumaBuffer(NumaBuffer&& other) noexcept;
  NumaBuffer& operator=(NumaBuffer&& other) noexcept;
  NumaBuffer(const NumaBuffer&) = delete;
  NumaBuffer& operator=(const NumaBuffer&) = delete;
  ~NumaBuffer();

  [[nodiscard]] std::byte* data() const { return data_; }  // aligned to 2 MiB
  [[nodiscard]] int64_t size_bytes() const { return size_bytes_; }

 private:
  void release() noexcept;
  std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
  void* mapping_ = nullptr;
  size_t mapping_size_bytes_ = 0;
};

}  // namespace tandem
