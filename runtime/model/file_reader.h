// Large reads of a file past the page cache, where the file system can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

namespace tandem {

class FileReader {
 public:
  // Offsets, sizes and addresses of direct reads are multiples of this.
  static constexpr int64_t kAlignmentBytes = 4096;

  // Throws LoadError naming the path and the system's reason.
  explicit FileReader(std::filesystem::path path);
  ~FileReader();
  FileReader(const FileReader&) = delete;
  FileReader& operator=(const FileReader&) = delete;

  // Whether the page cache holds [offset, offset + size), as a few samples say; true where the
  // system does not tell.
  [[nodiscard]] bool is_cached(int64_t offset_bytes, int64_t size_bytes) const;

  // Fills `target` from `offset_bytes`, all three aligned, in pieces of 8 MiB; the file may end
  // inside, but not before `needed_size_bytes`. Thread-safe. Throws LoadError.
  void read(int64_t offset_bytes, std::span<std::byte> target, int64_t needed_size_bytes) const;

 private:
  std::filesystem::path path_;
  int direct_fd_ = -1;  // -1: no direct reads here
  int buffered_fd_ = -1;
};

}  // namespace tandem
