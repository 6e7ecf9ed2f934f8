#include "runtime/topology/arrival_tree.h"

#include <catch2/catch_test_macros.hpp>
#include <numeric>
#include <vector>

namespace tandem::tests {
namespace {

TEST_CASE("only the last of all workers is told so, round after round, for any sizes of nodes",
          "[topology]") {
  const std::vector<std::vector<int>> machines{
      {1}, {2}, {7}, {8}, {9}, {64}, {65}, {513}, {1, 1}, {3, 8}, {64, 64}, {9, 1, 70, 8}};
  for (const std::vector<int>& node_sizes : machines) {
    ArrivalTree tree(node_sizes);
    const int num_workers = std::accumulate(node_sizes.begin(), node_sizes.end(), 0);
    for (int round = 0; round < 3; ++round) {
      int num_last = 0;
      for (int arrival = 0; arrival < num_workers; ++arrival) {
        const bool is_last = tree.arrive((arrival * 17 + round) % num_workers);
        num_last += is_last;
        CHECK((!is_last || arrival == num_workers - 1));
      }
      CHECK(num_last == 1);
    }
  }
}

}  // namespace
}  // namespace tandem::tests
