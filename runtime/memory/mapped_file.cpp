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

int madvise_value(AccessHint hint) {
  switch (hint) {
    case AccessHint::kNormal:
      return MADV_NORMAL;
    case AccessHint::kSequential:
      return MADV_SEQUENTIAL;
    case AccessHint::kRandom:
      return MADV_RANDOM;
    case AccessHint::kWillNeed:
      return MADV_WILLNEED;
    case AccessHint::kPopulate:
      return MADV_POPULATE_READ;
    case AccessHint::kDontNeed:
      return MADV_DONTNEED;
  }
  return MADV_NORMAL;
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

void MappedFile::advise(int64_t offset_bytes, int64_t size_bytes, AccessHint hint) const noexcept {
  if (data_ == nullptr || size_bytes <= 0 || offset_bytes < 0) return;
  const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
  size_t begin = std::min(static_cast<size_t>(offset_bytes), size_bytes_);
  size_t end = begin + std::min(static_cast<size_t>(size_bytes), size_bytes_ - begin);
  if (hint == AccessHint::kDontNeed) {  // inwards: only pages that hold nothing else
    begin = (begin + page - 1) / page * page;
    if (end != size_bytes_) end = end / page * page;
  } else {
    begin = begin / page * page;
  }
  if (begin >= end) return;
  static_cast<void>(
      ::madvise(const_cast<std::byte*>(data_) + begin, end - begin, madvise_value(hint)));
}

}  // namespace tandem
