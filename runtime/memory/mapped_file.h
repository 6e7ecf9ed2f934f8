// A file mapped read-only: one of the four owners of memory. Nothing is read until it is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace tandem {

// A file that another process truncates while it is mapped ends this one by SIGBUS; that is the
// price of not copying hundreds of gigabytes.
class MappedFile {
 public:
  MappedFile() = default;
  // Throws LoadError naming the path and the system's reason.
  explicit MappedFile(const std::filesystem::path& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;
  ~MappedFile();

  [[nodiscard]] std::span<const std::byte> bytes() const { return {data_, size_bytes_}; }
  [[nodiscard]] int64_t size_bytes() const { return static_cast<int64_t>(size_bytes_); }

  // Of the pages that hold [offset_bytes, offset_bytes + size_bytes), cut to the file:
  // Maps them, by a fault for every 16, with which the kernel maps those of the neighbours that are
  // in the page cache. (MADV_POPULATE_READ goes page by page: 0.3 us each, for 0.2.)
  void touch(int64_t offset_bytes, int64_t size_bytes) const noexcept;
  // Lets go of them, but of those that are shared with what lies beside the range. They can be read
  // again.
  void release(int64_t offset_bytes, int64_t size_bytes) const noexcept;

 private:
  struct Range {
    size_t begin = 0, end = 0;
  };
  [[nodiscard]] Range range_of(int64_t offset_bytes, int64_t size_bytes) const noexcept;
  void unmap() noexcept;
  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace tandem
