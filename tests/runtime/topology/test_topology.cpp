#include "runtime/topology/topology.h"

#include <catch2/catch_test_macros.hpp>
#include <set>

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
