// Memory of one NUMA node in huge pages where the system gives them: one of the four owners of
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tandem {

class NumaBuffer {
 public:
  NumaBuffer() = default;
  // Zeroed on first touch, which is what takes the memory. Reserved huge pages if the node has
  // enough of them, else transparent ones. Bound to the node if that has the room, else the node is
  // only preferred; `node_os_idx` < 0: wherever the thread runs that touches a page first. Throws
  // LoadError naming the amount and the system's reason.
  NumaBuffer(int64_t size_bytes, int node_os_idx);
  NumaBuffer(NumaBuffer&& other) noexcept;
  NumaBuffer& operator=(NumaBuffer&& other) noexcept;
  NumaBuffer(const NumaBuffer&) = delete;
  NumaBuffer& operator=(const NumaBuffer&) = delete;
  ~NumaBuffer();

  // Reserved huge pages of all nodes that a buffer could still have. They are no part of the memory
  // that the system calls available.
  static int64_t free_huge_page_bytes();

  [[nodiscard]] std::byte* data() const { return data_; }  // aligned to 2 MiB
  [[nodiscard]] int64_t size_bytes() const { return size_bytes_; }

 private:
  void release() noexcept;
  std::byte* data_ = nullptr;
  int64_t size_bytes_ = 0;
  size_t mapping_size_bytes_ = 0;
  bool is_reserved_ = false;  // in reserved huge pages
};

// What the system really gave, read back from it.
struct PageUse {
  int64_t resident_size_bytes = 0;
  int64_t huge_size_bytes = 0;    // of that, in pages of 2 MiB and more
  int64_t remote_size_bytes = 0;  // of that, on other nodes than the one asked for (a sample)
  PageUse& operator+=(const PageUse& other);
};
// Of [data, data + size_bytes), a NumaBuffer's; node_os_idx < 0: any node is right.
PageUse read_page_use(const std::byte* data, int64_t size_bytes, int node_os_idx);
// "531.600 GiB in huge pages of 2 MiB", "1.500 GiB, only 0.200 of it in huge pages of 2 MiB".
std::string describe(const PageUse& use);

}  // namespace tandem
