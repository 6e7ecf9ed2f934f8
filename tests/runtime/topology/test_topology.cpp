#include "runtime/topology/topology.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "runtime/topology/bandwidth.h"

namespace tandem::tests {
namespace {

TEST_CASE("the machine has memory and cores, each core once", "[topology]") {
  const Topology topology = Topology::detect();
  REQUIRE_FALSE(topology.nodes.empty());
  CHECK(topology.memory_size_bytes > 0);
  CHECK(topology.num_cores() >= 1);
  CHECK_FALSE(topology.cpu_name.empty());
  std::set<int> processors;
  for (const NumaNode& node : topology.nodes) {
    for (const int processor : node.core_os_idx) CHECK(processors.insert(processor).second);
  }
  CHECK(static_cast<int>(processors.size()) == topology.num_cores());
}

// A machine as hwloc describes one that is not there.
Topology synthetic_topology(const char* description) {
  setenv("HWLOC_SYNTHETIC", description, 1);
  Topology topology = Topology::detect();
  unsetenv("HWLOC_SYNTHETIC");
  return topology;
}

TEST_CASE("a node of memory alone takes no cores from the node they belong to", "[topology]") {
  const Topology topology =
      synthetic_topology("package:2 [numa(memory=64GB)] [numa(memory=16GB)] core:3 pu:2");
  REQUIRE(topology.nodes.size() == 2);
  CHECK(topology.nodes[0].core_os_idx == std::vector{0, 2, 4});
  CHECK(topology.nodes[1].core_os_idx == std::vector{6, 8, 10});
  CHECK(topology.memory_size_bytes == 160'000'000'000);
}

TEST_CASE("where nothing is known of cores every logical processor is one", "[topology]") {
  const Topology topology = synthetic_topology("numa:1 pu:3");
  REQUIRE(topology.nodes.size() == 1);
  CHECK(topology.nodes[0].core_os_idx == std::vector{0, 1, 2});
}

// In a child process, whose mask can be narrowed without harm.
TEST_CASE("only processors of the affinity mask are seen", "[topology]") {
  const int processor = Topology::detect().nodes.back().core_os_idx.back();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(processor), &set);
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      // A sanitizer's own thread belongs to the process too.
      if (sched_setaffinity(std::stoi(task.path().filename()), sizeof(set), &set) != 0) _exit(2);
    }
    const Topology topology = Topology::detect();
    const bool is_right =
        topology.nodes.size() == 1 && topology.nodes[0].core_os_idx == std::vector<int>{processor};
    _exit(is_right ? 0 : 1);
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(status == 0);
}

TEST_CASE("measured bandwidths are positive and finite", "[topology]") {
  WorkerPool pool(Topology::detect(), {});
  const double read = measure_read_bandwidth_gb_per_s(pool, int64_t{32} << 20, 3);
  const double copy = measure_copy_bandwidth_gb_per_s(pool, int64_t{32} << 20, 3);
  CHECK(read > 0.05);
  CHECK(read < 1e5);
  CHECK(copy > 0.05);
  CHECK(copy < 1e5);
}

TEST_CASE("bandwidths are measured of each node by its part of the threads, then of all",
          "[topology]") {
  Topology topology = Topology::detect();
  topology.nodes.resize(1);
  const std::vector<StreamBandwidth> single =
      measure_stream_bandwidths(topology, 1, int64_t{8} << 20, 1);
  REQUIRE(single.size() == 1);
  CHECK(single[0].node_os_idx == -1);
  CHECK(single[0].num_threads == 1);

  topology.nodes.resize(1);
  topology.nodes.push_back(
      {.os_idx = 7, .memory_size_bytes = 1, .core_os_idx = topology.nodes[0].core_os_idx});
  const std::vector<StreamBandwidth> both =
      measure_stream_bandwidths(topology, 2, int64_t{8} << 20, 1);
  REQUIRE(both.size() == 3);
  CHECK(both[0].node_os_idx == topology.nodes[0].os_idx);
  CHECK(both[1].node_os_idx == 7);
  CHECK(both[2].node_os_idx == -1);
  CHECK(both[0].num_threads + both[1].num_threads == both[2].num_threads);
  for (const StreamBandwidth& one : both) {
    CHECK(one.read_gb_per_s > 0.0);
    CHECK(one.copy_gb_per_s > 0.0);
  }
}

}  // namespace
}  // namespace tandem::tests
