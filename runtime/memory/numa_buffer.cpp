#include "runtime/memory/numa_buffer.h"

#include <fmt/format.h>
#include <linux/mempolicy.h>
#include <linux/mman.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <optional>
#include <utility>

#include "runtime/base/errors.h"
#include "runtime/topology/cgroup.h"

namespace tandem {
namespace {

constexpr size_t kHugePageSizeBytes = size_t{2} << 20;
constexpr double kGiB = 1 << 30;

std::string node_folder(int node_os_idx) {
  return fmt::format("/sys/devices/system/node/node{}/", node_os_idx);
}

int64_t number_in(const std::string& file) {
  std::ifstream stream(file);
  int64_t number = 0;
  return stream >> number ? number : 0;
}

// In reserved huge pages of this process, touched or not.
std::atomic<int64_t> reserved_mapped_bytes{0};

// Reserved huge pages that nobody uses, as far as the control group allows; of all nodes for
// node_os_idx < 0. The group counts pages when they are touched: what is mapped is taken off as if
// none of it were.
int64_t free_reserved_bytes(int node_os_idx) {
  const std::string folder = node_os_idx < 0 ? "/sys/kernel/mm/" : node_folder(node_os_idx);
  const int64_t free_bytes = number_in(folder + "hugepages/hugepages-2048kB/free_hugepages") *
                             static_cast<int64_t>(kHugePageSizeBytes);
  const std::optional<int64_t> left = Cgroup::of_this_process().huge_pages_left_bytes();
  return left ? std::min(free_bytes, *left - reserved_mapped_bytes.load()) : free_bytes;
}

// What a node can give, file pages included: a bound allocation takes those back, a merely
// preferred one would rather go to another node.
int64_t node_available_bytes(int node_os_idx) {
  std::ifstream file(node_folder(node_os_idx) + "meminfo");
  std::string node, number, name, unit;  // "Node 0 MemFree: 123 kB"
  int64_t kib = 0, available_kib = 0;
  while (file >> node >> number >> name >> kib) {
    std::getline(file, unit);
    if (name == "MemFree:" || name == "Active(file):" || name == "Inactive(file):") {
      available_kib += kib;
    }
  }
  return available_kib * 1024;
}

// Failure (no NUMA, a sandbox that forbids it) costs speed only, and the read-back tells.
void set_policy(void* address, size_t size_bytes, int node_os_idx, int mode) {
  std::array<unsigned long, 16> mask{};  // NOLINT(google-runtime-int): the kernel's type
  constexpr size_t kBitsAWord = 8 * sizeof(mask[0]);
  if (node_os_idx < 0 || static_cast<size_t>(node_os_idx) >= mask.size() * kBitsAWord) return;
  mask[static_cast<size_t>(node_os_idx) / kBitsAWord] |=
      1UL << (static_cast<size_t>(node_os_idx) % kBitsAWord);
  static_cast<void>(
      syscall(SYS_mbind, address, size_bytes, mode, mask.data(), mask.size() * kBitsAWord, 0));
}

void* map(size_t size_bytes, int flags) {
  void* address =
      mmap(nullptr, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
  return address == MAP_FAILED ? nullptr : address;
}

// A mapping that begins at a boundary of huge pages; nullptr with errno.
std::byte* map_aligned(size_t size_bytes) {
  const size_t mapped_size_bytes = size_bytes + kHugePageSizeBytes;
  void* const mapping = map(mapped_size_bytes, MAP_NORESERVE);
  if (mapping == nullptr) return nullptr;
  const auto begin = reinterpret_cast<uintptr_t>(mapping);
  const uintptr_t data = (begin + kHugePageSizeBytes - 1) / kHugePageSizeBytes * kHugePageSizeBytes;
  const size_t before = data - begin;
  if (before > 0) munmap(mapping, before);
  munmap(reinterpret_cast<void*>(data + size_bytes), kHugePageSizeBytes - before);
  return reinterpret_cast<std::byte*>(data);
}

}  // namespace

NumaBuffer::NumaBuffer(int64_t size_bytes, int node_os_idx) : size_bytes_(size_bytes) {
  if (size_bytes <= 0) return;
  mapping_size_bytes_ = (static_cast<size_t>(size_bytes) + kHugePageSizeBytes - 1) /
                        kHugePageSizeBytes * kHugePageSizeBytes;
  if (free_reserved_bytes(node_os_idx) >= static_cast<int64_t>(mapping_size_bytes_)) {
    // Reserved by this very call, so that no later touch can fail for want of pages; preferred
    // and not bound, since the reservation is of the machine and not of the node.
    data_ = static_cast<std::byte*>(map(mapping_size_bytes_, MAP_HUGETLB | MAP_HUGE_2MB));
    if (data_ != nullptr) {
      set_policy(data_, mapping_size_bytes_, node_os_idx, MPOL_PREFERRED);
      is_reserved_ = true;
      reserved_mapped_bytes += static_cast<int64_t>(mapping_size_bytes_);
      return;
    }
  }
  data_ = map_aligned(mapping_size_bytes_);
  if (data_ == nullptr) {
    throw LoadError(fmt::format("no memory for {:.3f} GiB: {}",
                                static_cast<double>(size_bytes) / kGiB, std::strerror(errno)));
  }
  static_cast<void>(madvise(data_, mapping_size_bytes_, MADV_HUGEPAGE));
  if (node_os_idx < 0) return;
  const bool fits = node_available_bytes(node_os_idx) >= static_cast<int64_t>(mapping_size_bytes_);
  set_policy(data_, mapping_size_bytes_, node_os_idx, fits ? MPOL_BIND : MPOL_PREFERRED);
}

NumaBuffer::NumaBuffer(NumaBuffer&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_bytes_(std::exchange(other.size_bytes_, 0)),
      mapping_size_bytes_(std::exchange(other.mapping_size_bytes_, 0)),
      is_reserved_(std::exchange(other.is_reserved_, false)) {}

NumaBuffer& NumaBuffer::operator=(NumaBuffer&& other) noexcept {
  if (this == &other) return *this;
  release();
  data_ = std::exchange(other.data_, nullptr);
  size_bytes_ = std::exchange(other.size_bytes_, 0);
  mapping_size_bytes_ = std::exchange(other.mapping_size_bytes_, 0);
  is_reserved_ = std::exchange(other.is_reserved_, false);
  return *this;
}

NumaBuffer::~NumaBuffer() { release(); }

void NumaBuffer::release() noexcept {
  if (data_ != nullptr) munmap(data_, mapping_size_bytes_);
  if (is_reserved_) reserved_mapped_bytes -= static_cast<int64_t>(mapping_size_bytes_);
  data_ = nullptr;
  is_reserved_ = false;
}

int64_t NumaBuffer::free_huge_page_bytes() { return std::max<int64_t>(free_reserved_bytes(-1), 0); }

PageUse& PageUse::operator+=(const PageUse& other) {
  resident_size_bytes += other.resident_size_bytes;
  huge_size_bytes += other.huge_size_bytes;
  remote_size_bytes += other.remote_size_bytes;
  return *this;
}

namespace {

// The share of sampled pages that lie on another node (move_pages without nodes to move to).
double remote_share(const std::byte* data, int64_t size_bytes, int node_os_idx) {
  constexpr int64_t kSamples = 1024;
  std::array<const void*, kSamples> pages{};
  std::array<int, kSamples> nodes{};
  const int64_t num_samples = std::min<int64_t>(kSamples, size_bytes / 4096);
  if (node_os_idx < 0 || num_samples == 0) return 0.0;
  for (int64_t sample = 0; sample < num_samples; ++sample) {
    pages[sample] = data + size_bytes / num_samples * sample;
  }
  if (syscall(SYS_move_pages, 0, num_samples, pages.data(), nullptr, nodes.data(), 0) != 0) {
    return 0.0;
  }
  const auto num_resident =
      std::count_if(nodes.begin(), nodes.begin() + num_samples, [](int node) { return node >= 0; });
  const auto num_remote = std::count_if(nodes.begin(), nodes.begin() + num_samples,
                                        [&](int node) { return node >= 0 && node != node_os_idx; });
  return num_resident == 0 ? 0.0
                           : static_cast<double>(num_remote) / static_cast<double>(num_resident);
}

}  // namespace

PageUse read_page_use(const std::byte* data, int64_t size_bytes, int node_os_idx) {
  const auto begin = reinterpret_cast<uintptr_t>(data);
  const uintptr_t end = begin + static_cast<uintptr_t>(size_bytes);
  PageUse use;
  std::ifstream smaps("/proc/self/smaps");
  std::string line;
  bool is_ours = false;
  while (std::getline(smaps, line)) {
    unsigned long long from = 0, to = 0, kib = 0;
    if (std::sscanf(line.c_str(), "%llx-%llx ", &from, &to) == 2) {
      is_ours = from < end && begin < to;
      continue;
    }
    char name[32] = {};
    if (!is_ours || std::sscanf(line.c_str(), "%31[^:]: %llu kB", name, &kib) != 2) continue;
    const std::string_view field = name;
    const auto bytes = static_cast<int64_t>(kib) * 1024;
    if (field == "Rss" || field == "Private_Hugetlb") use.resident_size_bytes += bytes;
    if (field == "AnonHugePages" || field == "Private_Hugetlb") use.huge_size_bytes += bytes;
  }
  use.remote_size_bytes = static_cast<int64_t>(remote_share(data, size_bytes, node_os_idx) *
                                               static_cast<double>(use.resident_size_bytes));
  return use;
}

std::string describe(const PageUse& use) {
  const auto gib = [](int64_t bytes) { return static_cast<double>(bytes) / kGiB; };
  // The last huge page of a small machine may be one too few: 1 % does not matter.
  const bool is_huge = static_cast<double>(use.huge_size_bytes) >=
                       0.99 * static_cast<double>(use.resident_size_bytes);
  std::string text =
      is_huge ? fmt::format("{:.3f} GiB in huge pages of 2 MiB", gib(use.resident_size_bytes))
              : fmt::format("{:.3f} GiB, only {:.3f} of it in huge pages of 2 MiB",
                            gib(use.resident_size_bytes), gib(use.huge_size_bytes));
  if (use.remote_size_bytes > 0) {
    text += fmt::format(", {:.3f} on another node than planned", gib(use.remote_size_bytes));
  }
  return text;
}

}  // namespace tandem
