#include "runtime/kv_store/page_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "runtime/memory/file_descriptor.h"

namespace tandem {
namespace {

static_assert(std::endian::native == std::endian::little);

struct Header {
  std::array<char, 8> magic = {'t', 'a', 'n', 'd', 'e', 'm', 'k', '1'};
  uint64_t page_size_bytes = 0;
  PageHash hash;
  uint64_t checksum = 0;
  bool operator==(const Header&) const = default;
};
static_assert(sizeof(Header) == kPageFileHeaderBytes);

// All of `parts`; header and page go in one call, as the system reads ahead by the size of what it
// is asked for. Returns 0, or what the system says: ENODATA where the file ends before. `move` is
// ::readv or ::writev.
template <typename Move>
int move_all(int fd, std::span<iovec> parts, const Move& move) {
  while (!parts.empty()) {
    const ssize_t num_moved = move(fd, parts.data(), static_cast<int>(parts.size()));
    if (num_moved < 0 && errno == EINTR) continue;
    if (num_moved < 0) return errno;
    if (num_moved == 0) return ENODATA;
    auto rest = static_cast<size_t>(num_moved);
    while (!parts.empty() && rest >= parts.front().iov_len) {
      rest -= parts.front().iov_len;
      parts = parts.subspan(1);
    }
    if (parts.empty()) return 0;
    iovec& part = parts.front();
    part = {static_cast<std::byte*>(part.iov_base) + rest, part.iov_len - rest};
  }
  return 0;
}

// Odd and then a shift onto itself: one to one, so that a chain never forgets a difference, and the
// bits of a word reach all others.
uint64_t mix(uint64_t state, uint64_t word) {
  const uint64_t product = (state ^ word) * 0x9e3779b97f4a7c15u;
  return product ^ (product >> 32);
}

}  // namespace

// Eight chains side by side, since one alone would wait for its own multiplications.
uint64_t page_checksum(std::span<const std::byte> bytes) {
  constexpr size_t kNumChains = 8;
  std::array<uint64_t, kNumChains> chains;
  for (size_t chain = 0; chain < kNumChains; ++chain) chains[chain] = bytes.size() + chain;
  const auto take = [&](size_t chain, const std::byte* from, size_t size_bytes) {
    uint64_t word = 0;
    std::memcpy(&word, from, size_bytes);
    chains[chain] = mix(chains[chain], word);
  };
  size_t offset = 0;
  for (; offset + kNumChains * 8 <= bytes.size(); offset += kNumChains * 8) {
    for (size_t chain = 0; chain < kNumChains; ++chain) take(chain, &bytes[offset + chain * 8], 8);
  }
  for (size_t chain = 0; offset < bytes.size(); ++chain, offset += 8) {
    take(chain, &bytes[offset], std::min<size_t>(8, bytes.size() - offset));
  }
  uint64_t sum = 0;
  for (const uint64_t chain : chains) sum = mix(sum, chain);
  return sum;
}

PageRead read_page_file(const std::filesystem::path& path,
                        PageHash hash,
                        std::span<std::byte> bytes) {
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return errno == ENOENT ? PageRead::kMissing : PageRead::kRefused;
  Header header;
  std::array<iovec, 2> parts = {iovec{&header, sizeof header}, iovec{bytes.data(), bytes.size()}};
  if (const int error = move_all(file.get(), parts, ::readv); error != 0)
    return error == ENODATA ? PageRead::kDamaged : PageRead::kRefused;
  const Header expected{
      .page_size_bytes = bytes.size(), .hash = hash, .checksum = page_checksum(bytes)};
  if (!(header == expected)) return PageRead::kDamaged;
  // Used now: what the folder goes by after a restart. Where the system refuses, it is only older.
  static_cast<void>(::futimens(file.get(), nullptr));
  return PageRead::kDone;
}

std::string write_page_file(const std::filesystem::path& path,
                            PageHash hash,
                            std::span<const std::byte> bytes) {
  const std::string unfinished = path.string() + ".tmp";
  FileDescriptor file(
      ::open(unfinished.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, S_IRUSR | S_IWUSR));
  if (!file.is_open()) return std::strerror(errno);
  Header header{.page_size_bytes = bytes.size(), .hash = hash, .checksum = page_checksum(bytes)};
  std::array<iovec, 2> parts = {iovec{&header, sizeof header},
                                iovec{const_cast<std::byte*>(bytes.data()), bytes.size()}};
  int error = move_all(file.get(), parts, ::writev);
  if (error == 0 && std::rename(unfinished.c_str(), path.c_str()) != 0) error = errno;
  if (error == 0) return "";
  ::unlink(unfinished.c_str());
  return std::strerror(error);
}

}  // namespace tandem
