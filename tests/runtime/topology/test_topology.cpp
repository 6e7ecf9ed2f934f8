#include "runtime/topology/topology.h"

#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include <catch2/catch_test_macros.hpp>
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

}  // namespace
}  // namespace tandem::tests
