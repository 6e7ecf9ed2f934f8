// Topology::detect() without hwloc, which has no static library to link: one node with all
// processors. For the static test program alone.
#include <unistd.h>

#include "runtime/topology/topology.h"

namespace tandem {

int Topology::num_cores() const { return static_cast<int>(nodes.front().core_os_idx.size()); }

Topology Topology::detect() {
  NumaNode node;
  node.memory_size_bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  for (int processor = 0; processor < sysconf(_SC_NPROCESSORS_ONLN); ++processor) {
    node.core_os_idx.push_back(processor);
  }
  return {.cpu_name = "emulated", .nodes = {node}, .memory_size_bytes = node.memory_size_bytes};
}

}  // namespace tandem
