#include "runtime/topology/cgroup.h"

#include <algorithm>
#include <fstream>
#include <string>
#include <string_view>

namespace tandem {
namespace {

namespace fs = std::filesystem;

// `path` below `mount` and every folder above it, down to the mount. A container often sees its
// own group mounted while its path still is the host's: folders that are not there are left out.
std::vector<fs::path> folders_of(const fs::path& mount, std::string_view path) {
  std::vector<fs::path> folders;
  fs::path relative = fs::path(path).relative_path();
  while (true) {
    std::error_code ec;
    if (fs::is_directory(mount / relative, ec)) folders.push_back(mount / relative);
    if (relative.empty()) return folders;
    relative = relative.parent_path();
  }
}

// The file's first number; nothing for "max", a file that is not there or holds something else.
std::optional<int64_t> number_in(const fs::path& file) {
  std::ifstream stream(file);
  int64_t number = 0;
  return stream >> number ? std::optional(number) : std::nullopt;
}

// The number behind a name in a file of lines "name number".
int64_t named_number(const fs::path& file, std::string_view wanted) {
  std::ifstream stream(file);
  std::string name;
  int64_t number = 0;
  while (stream >> name >> number) {
    if (name == wanted) return number;
  }
  return 0;
}

template <typename Number>
void keep_least(std::optional<Number>& least, Number number) {
  least = least ? std::min(*least, number) : number;
}

struct LimitAndUse {
  int64_t limit = 0, used = 0;
};
std::optional<LimitAndUse> limit_in(const fs::path& folder,
                                    const char* limit_file,
                                    const char* used_file) {
  // Version 1 writes "no limit" as a number beyond every machine.
  constexpr int64_t kNoLimit = int64_t{1} << 60;
  const std::optional<int64_t> limit = number_in(folder / limit_file);
  const std::optional<int64_t> used = number_in(folder / used_file);
  if (!limit || !used || *limit >= kNoLimit) return std::nullopt;
  return LimitAndUse{.limit = *limit, .used = *used};
}

void keep_least_memory(std::optional<int64_t>& least,
                       const fs::path& folder,
                       const char* limit_file,
                       const char* used_file) {
  const auto memory = limit_in(folder, limit_file, used_file);
  if (!memory) return;
  const fs::path stat = folder / "memory.stat";
  const int64_t reclaimable =
      named_number(stat, "inactive_file") + named_number(stat, "active_file");
  keep_least(least,
             std::clamp<int64_t>(memory->limit - memory->used + reclaimable, 0, memory->limit));
}

void keep_least_huge_pages(std::optional<int64_t>& least,
                           const fs::path& folder,
                           const char* limit_file,
                           const char* used_file) {
  const auto pages = limit_in(folder, limit_file, used_file);
  if (pages) keep_least(least, std::max<int64_t>(pages->limit - pages->used, 0));
}

}  // namespace

Cgroup Cgroup::of_this_process() { return {"/proc/self/cgroup", "/sys/fs/cgroup"}; }

Cgroup::Cgroup(const fs::path& membership, const fs::path& mount) {
  std::ifstream stream(membership);
  std::string line;  // hierarchy:controller,controller:path
  while (std::getline(stream, line)) {
    const size_t first = line.find(':');
    const size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = ',' + line.substr(first + 1, second - first - 1) + ',';
    const std::string path = line.substr(second + 1);
    if (controllers == ",,") {
      std::error_code ec;  // beside version 1, version 2 is mounted one folder deeper
      const bool is_hybrid = fs::is_directory(mount / "unified", ec);
      unified_ = folders_of(is_hybrid ? mount / "unified" : mount, path);
    }
    if (controllers.find(",cpu,") != std::string::npos) cpu_v1_ = folders_of(mount / "cpu", path);
    if (controllers.find(",memory,") != std::string::npos) {
      memory_v1_ = folders_of(mount / "memory", path);
    }
    if (controllers.find(",hugetlb,") != std::string::npos) {
      hugetlb_v1_ = folders_of(mount / "hugetlb", path);
    }
  }
}

std::optional<double> Cgroup::cpu_limit() const {
  std::optional<double> least;
  const auto add = [&](std::optional<int64_t> quota, std::optional<int64_t> period) {
    if (quota && period && *quota > 0 && *period > 0) {
      keep_least(least, static_cast<double>(*quota) / static_cast<double>(*period));
    }
  };
  for (const fs::path& folder : unified_) {
    std::ifstream stream(folder / "cpu.max");  // "quota period" or "max period", microseconds
    int64_t quota = 0, period = 0;
    if (stream >> quota >> period) add(quota, period);
  }
  for (const fs::path& folder : cpu_v1_) {  // -1: no limit
    add(number_in(folder / "cpu.cfs_quota_us"), number_in(folder / "cpu.cfs_period_us"));
  }
  return least;
}

std::optional<int64_t> Cgroup::memory_left_bytes() const {
  std::optional<int64_t> least;
  for (const fs::path& folder : unified_) {
    keep_least_memory(least, folder, "memory.max", "memory.current");
  }
  for (const fs::path& folder : memory_v1_) {
    keep_least_memory(least, folder, "memory.limit_in_bytes", "memory.usage_in_bytes");
  }
  return least;
}

std::optional<int64_t> Cgroup::huge_pages_left_bytes() const {
  std::optional<int64_t> least;
  for (const fs::path& folder : unified_) {
    keep_least_huge_pages(least, folder, "hugetlb.2MB.max", "hugetlb.2MB.current");
  }
  for (const fs::path& folder : hugetlb_v1_) {
    keep_least_huge_pages(least, folder, "hugetlb.2MB.limit_in_bytes",
                          "hugetlb.2MB.usage_in_bytes");
  }
  return least;
}

}  // namespace tandem
