#include "runtime/topology/topology.h"

#include <hwloc.h>

#include <memory>
#include <type_traits>

#include "runtime/base/errors.h"
#include "runtime/topology/cgroup.h"

namespace tandem {
namespace {

struct DestroyTopology {
  void operator()(hwloc_topology_t topology) const { hwloc_topology_destroy(topology); }
};
using TopologyHandle = std::unique_ptr<std::remove_pointer_t<hwloc_topology_t>, DestroyTopology>;

TopologyHandle load_topology() {
  hwloc_topology_t topology = nullptr;
  if (hwloc_topology_init(&topology) != 0) throw LoadError("hwloc cannot be initialised");
  TopologyHandle handle(topology);
  if (hwloc_topology_load(topology) != 0)
    throw LoadError("hwloc cannot read the machine's topology");
  return handle;
}

// The first allowed logical processor of every core that belongs to `node_cpuset`.
std::vector<int> cores_of(hwloc_topology_t topology,
                          hwloc_const_cpuset_t node_cpuset,
                          hwloc_const_cpuset_t allowed) {
  std::vector<int> processors;
  hwloc_bitmap_t usable = hwloc_bitmap_alloc();
  // A system that tells nothing of cores has logical processors at least.
  const bool knows_cores = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_CORE) > 0;
  const hwloc_obj_type_t type = knows_cores ? HWLOC_OBJ_CORE : HWLOC_OBJ_PU;
  const int num_cores = hwloc_get_nbobjs_by_type(topology, type);
  for (int core_idx = 0; core_idx < num_cores; ++core_idx) {
    const hwloc_obj_t core = hwloc_get_obj_by_type(topology, type, static_cast<unsigned>(core_idx));
    hwloc_bitmap_and(usable, core->cpuset, node_cpuset);
    hwloc_bitmap_and(usable, usable, allowed);
    const int first = hwloc_bitmap_first(usable);
    if (first >= 0) processors.push_back(first);
  }
  hwloc_bitmap_free(usable);
  return processors;
}

}  // namespace

int Topology::num_cores() const {
  int num_cores = 0;
  for (const NumaNode& node : nodes) num_cores += static_cast<int>(node.core_os_idx.size());
  return num_cores;
}

Topology Topology::detect() {
  const TopologyHandle handle = load_topology();
  hwloc_topology_t topology = handle.get();
  Topology result;
  const hwloc_obj_t package = hwloc_get_obj_by_type(topology, HWLOC_OBJ_PACKAGE, 0);
  const char* name = package == nullptr ? nullptr : hwloc_obj_get_info_by_name(package, "CPUModel");
  result.cpu_name = name == nullptr ? "unknown CPU" : name;

  hwloc_bitmap_t allowed = hwloc_bitmap_alloc();
  if (hwloc_get_cpubind(topology, allowed, HWLOC_CPUBIND_PROCESS) != 0) {
    hwloc_bitmap_copy(allowed, hwloc_topology_get_allowed_cpuset(topology));
  }
  const int num_nodes = hwloc_get_nbobjs_by_type(topology, HWLOC_OBJ_NUMANODE);
  for (int node_idx = 0; node_idx < num_nodes; ++node_idx) {
    const hwloc_obj_t object =
        hwloc_get_obj_by_type(topology, HWLOC_OBJ_NUMANODE, static_cast<unsigned>(node_idx));
    NumaNode node;
    node.os_idx = static_cast<int>(object->os_index);
    node.memory_size_bytes = static_cast<int64_t>(object->attr->numanode.local_memory);
    // A node of memory alone (HBM, CXL) names the cores near it, which have a node of their own:
    // the first, since the system numbers ordinary memory first.
    node.core_os_idx = cores_of(topology, object->cpuset, allowed);
    hwloc_bitmap_andnot(allowed, allowed, object->cpuset);
    result.memory_size_bytes += node.memory_size_bytes;
    if (!node.core_os_idx.empty()) result.nodes.push_back(std::move(node));
  }
  hwloc_bitmap_free(allowed);
  if (result.nodes.empty()) throw LoadError("no processor core may be used by this process");
  result.cpu_limit = Cgroup::of_this_process().cpu_limit().value_or(0.0);
  return result;
}

}  // namespace tandem
