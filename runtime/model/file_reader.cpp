#include "runtime/model/file_reader.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "runtime/base/errors.h"

namespace tandem {
namespace {

constexpr size_t kPieceSizeBytes = size_t{8} << 20;

}  // namespace

FileReader::FileReader(std::filesystem::path path)
    : path_(std::move(path)),
      direct_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC | O_DIRECT)),
      buffered_(::open(path_.c_str(), O_RDONLY | O_CLOEXEC)) {
  if (!buffered_.is_open()) {
    throw LoadError(fmt::format("{}: cannot open: {}", path_.string(), std::strerror(errno)));
  }
}

bool FileReader::is_cached(int64_t offset_bytes, int64_t size_bytes) const {
  constexpr int64_t kSamples = 8;
  int64_t num_cached = 0;
  for (int64_t sample = 0; sample < kSamples; ++sample) {
    std::byte byte{};
    const iovec target{.iov_base = &byte, .iov_len = 1};
    const int64_t place = offset_bytes + (size_bytes - 1) * sample / (kSamples - 1);
    const ssize_t got = ::preadv2(buffered_.get(), &target, 1, place, RWF_NOWAIT);
    if (got < 0 && errno != EAGAIN) return true;  // a file system that cannot say
    num_cached += got == 1;
  }
  return num_cached == kSamples;
}

void FileReader::read(int64_t offset_bytes,
                      std::span<std::byte> target,
                      int64_t needed_size_bytes) const {
  int fd = direct_.is_open() ? direct_.get() : buffered_.get();
  size_t done = 0;
  while (done < target.size()) {
    const ssize_t got =
        ::pread(fd, target.data() + done, std::min(kPieceSizeBytes, target.size() - done),
                offset_bytes + static_cast<int64_t>(done));
    if (got > 0) {
      done += static_cast<size_t>(got);
      // A direct read that is not whole blocks has met the end of the file.
      if (done % kAlignmentBytes != 0) break;
    } else if (got == 0) {
      break;
    } else if (errno == EINVAL && fd != buffered_.get()) {
      fd = buffered_.get();  // opened, but not read directly: some network file systems
    } else if (errno != EINTR) {
      throw LoadError(fmt::format("{}: cannot read {} bytes at {}: {}", path_.string(),
                                  needed_size_bytes, offset_bytes, std::strerror(errno)));
    }
  }
  if (static_cast<int64_t>(done) < needed_size_bytes) {
    throw LoadError(fmt::format("{}: ends at {}, expected {} bytes from {}", path_.string(),
                                offset_bytes + static_cast<int64_t>(done), needed_size_bytes,
                                offset_bytes));
  }
}

}  // namespace tandem
