// Limits that the process's control group puts on it (version 2, and version 1 where a container
// still has it).
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

namespace tandem {

class Cgroup {
 public:
  // From /proc/self/cgroup below /sys/fs/cgroup.
  static Cgroup of_this_process();
  // `membership` has the form of /proc/self/cgroup; `mount` that of /sys/fs/cgroup.
  Cgroup(const std::filesystem::path& membership, const std::filesystem::path& mount);

  // Processors' worth of time, the least of the group and those around it (cpu.max).
  [[nodiscard]] std::optional<double> cpu_limit() const;
  // What is left of the memory limits (memory.max less memory.current, without what the group can
  // give back: its file pages).
  [[nodiscard]] std::optional<int64_t> memory_left_bytes() const;
  // What is left of the limits on reserved huge pages of 2 MiB (hugetlb.2MB.max): they are charged
  // when they are touched, and who is refused then is killed.
  [[nodiscard]] std::optional<int64_t> huge_pages_left_bytes() const;

 private:
  // The group's folders, from its own to the outermost: of version 2, of the controllers cpu,
  // memory and hugetlb of version 1.
  std::vector<std::filesystem::path> unified_, cpu_v1_, memory_v1_, hugetlb_v1_;
};

}  // namespace tandem
