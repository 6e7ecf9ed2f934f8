#include "runtime/memory/mapped_file.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/errors.h"
#include "runtime/memory/file_descriptor.h"

namespace tandem {

namespace {

[[noreturn]] void throw_system_error(const std::filesystem::path& path, const char* action) {
  const int error = errno;
  throw LoadError(fmt::format("{}: cannot {}: {}", path.string(), action, std::strerror(error)));
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  // O_NONBLOCK: opening a FIFO must not wait for a writer; it is refused below.
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!file.is_open()) throw_system_error(path, "open");
  struct stat status = {};
  if (::fstat(file.get(), &status) != 0) throw_system_error(path, "read its size");
  if (!S_ISREG(status.st_mode)) {
    throw LoadError(fmt::format("{}: not a regular file", path.string()));
  }
  if (status.st_size == 0) return;  // mmap refuses empty mappings
  const auto size = static_cast<size_t>(status.st_size);
  void* address = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (address == MAP_FAILED) throw_system_error(path, "map");
  data_ = static_cast<const std::byte*>(address);
  size_bytes_ = size;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  if (this != &other) {
    unmap();
    data_ = std::exchange(other.data_, nullptr);
    size_bytes_ = std::exchange(other.size_bytes_, 0);
  }
  return *this;
}

MappedFile::~MappedFile() { unmap(); }

void MappedFile::unmap() noexcept {
  if (data_ != nullptr) ::munmap(const_cast<std::byte*>(data_), size_bytes_);
  data_ = nullptr;
  size_bytes_ = 0;
}

void MappedFile::touch(int64_t offset_bytes, int64_t size_bytes) const noexcept {
  constexpr uintptr_t kMappedAtOnce = uintptr_t{64} << 10;  // Linux's fault_around_bytes
  const auto [begin, end] = range_of(offset_bytes, size_bytes);
  for (const std::byte* page = data_ + begin; page < data_ + end;) {
    static_cast<void>(*static_cast<const volatile std::byte*>(page));
    page += kMappedAtOnce - reinterpret_cast<uintptr_t>(page) % kMappedAtOnce;
  }
}

void MappedFile::release(int64_t offset_bytes, int64_t size_bytes) const noexcept {
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  auto [begin, end] = range_of(offset_bytes, size_bytes);
  begin = (begin + page - 1) / page * page;
  if (end != size_bytes_) end = end / page * page;
  if (begin >= end) return;
  static_cast<void>(::madvise(const_cast<std::byte*>(data_) + begin, end - begin, MADV_DONTNEED));
}

MappedFile::Range MappedFile::range_of(int64_t offset_bytes, int64_t size_bytes) const noexcept {
  if (size_bytes <= 0 || offset_bytes < 0) return {};
  const size_t begin = std::min(static_cast<size_t>(offset_bytes), size_bytes_);
  return {begin, begin + std::min(static_cast<size_t>(size_bytes), size_bytes_ - begin)};
}

}  // namespace tandem
