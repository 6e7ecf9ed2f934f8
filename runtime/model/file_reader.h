// Large reads of a file past the page cache, where the file system can.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>

#include "runtime/memory/file_descriptor.h"

namespace tandem {

class FileReader {
 public:
  // Offsets, sizes and addresses of direct reads are multiples of this.
  static constexpr int64_t kAlignmentBytes = 4096;

  // Throws LoadError naming the path and the system's reason.
  explicit FileReader(std::filesystem::path path);

  // Whether the page cache holds [offset, offset + size), as a few samples say; true where the
  // system does not tell.
  [[nodiscard]] bool is_cached(int64_t offset_bytes, int64_t size_bytes) const;

  // Fills `target` from `offset_bytes`, all three aligned, in pieces of 8 MiB; the file may end
  // inside, but not before `needed_size_bytes`. Thread-safe. Throws LoadError.
  void read(int64_t offset_bytes, std::span<std::byte> target, int64_t needed_size_bytes) const;

 private:
  std::filesystem::path path_;
  FileDescriptor direct_;  // none: no direct reads here
  FileDescriptor buffered_;
};

}  // namespace tandem
