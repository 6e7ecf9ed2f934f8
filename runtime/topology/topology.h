// What the machine is (hwloc): NUMA nodes, the cores this process may use, their memory.
#pragma once

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
  std::string cpu_name;  // "AMD EPYC ..."
  std::vector<NumaNode> nodes;
  int64_t memory_size_bytes = 0;
  [[nodiscard]] int num_cores() const;

  static Topology detect();
};

}  // namespace tandem
