// A file mapped read-only: one of the four owners of memory. Nothing is read until it is touched.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace tandem {

// What the kernel is told about the coming accesses (madvise). kPopulate maps the pages at once,
// reading what is not in the page cache: cheaper than a fault every few pages.
enum class AccessHint { kNormal, kSequential, kRandom, kWillNeed, kPopulate, kDontNeed };

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

  // Advice for the pages that hold [offset_bytes, offset_bytes + size_bytes), cut to the file.
  // A hint only: failure is not an error. kDontNeed keeps pages that are shared with a neighbour.
  void advise(int64_t offset_bytes, int64_t size_bytes, AccessHint hint) const noexcept;

 private:
  void unmap() noexcept;
  const std::byte* data_ = nullptr;
  size_t size_bytes_ = 0;
};

}  // namespace tandem
