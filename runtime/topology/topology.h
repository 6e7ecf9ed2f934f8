// What the machine is (hwloc): NUMA nodes, the cores this process may use, their memory.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

namespace tandem {

struct NumaNode {
  int os_idx = 0;
  int64_t memory_size_bytes = 0;
  std::vector<int>
      core_os_idx;  // one logical processor per physical core, allowed by the affinity mask
};

struct Topology {
  std::string cpu_name;         // "AMD EPYC ..."
  std::vector<NumaNode> nodes;  // those with cores; a core belongs to one
  int64_t memory_size_bytes = 0;
  double cpu_limit = 0.0;  // processors' worth of time that the cgroup allows; 0: no limit
  [[nodiscard]] int num_cores() const;
  // Whole cores that can be kept busy: more spinning threads than that would be throttled, all of
  // them at once.
  [[nodiscard]] int num_usable_cores() const {
    return cpu_limit > 0.0 ? std::clamp(static_cast<int>(cpu_limit), 1, std::max(num_cores(), 1))
                           : num_cores();
  }

  // Of this process: its affinity mask, the limits of its cgroup. Throws LoadError.
  static Topology detect();
};

}  // namespace tandem
