#include "cpu_experts/unit_queue.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <thread>
#include <vector>

#include "runtime/topology/worker_pool.h"

namespace tandem::tests {
namespace {

using cpu_experts::Share;
using cpu_experts::UnitQueue;

TEST_CASE("a queue gives every unit once, in whole runs, time after time", "[cpu_experts]") {
  const int num_threads = GENERATE(1, 2, 5);
  const int64_t min_units = GENERATE(1, 3);
  WorkerPool pool(Topology::detect(), {.num_threads = num_threads, .pin = false});
  UnitQueue queue;
  for (const int64_t num_units : {0, 1, 2, 7, 48, 250, 1001}) {
    for (const int64_t run_units : {min_units, 4 * min_units, int64_t{1200}}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(num_units));
      std::atomic<int> num_wrong{0};
      queue.reset(num_units, run_units, min_units, num_threads);
      pool.run([&](const WorkerPool::Worker&) {
        for (Share units = queue.take(); units.size() != 0; units = queue.take()) {
          const bool is_whole = units.size() % min_units == 0 || units.end == num_units;
          const bool crosses = units.begin / run_units != (units.end - 1) / run_units;
          if (!is_whole || crosses || units.end > num_units) num_wrong.fetch_add(1);
          for (int64_t unit = units.begin; unit < units.end; ++unit) seen[unit].fetch_add(1);
        }
      });
      CHECK(num_wrong.load() == 0);
      CHECK(std::all_of(seen.begin(), seen.end(),
                        [](const auto& count) { return count.load() == 1; }));
    }
  }
}

TEST_CASE("a worker that is held up keeps what it has taken, the others do the rest",
          "[cpu_experts]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 2, .pin = false});
  UnitQueue queue;
  queue.reset(100, 100, 1, 2);
  std::atomic<int64_t> num_of_slow{0};
  std::atomic<int64_t> num_done{0};
  pool.run([&](const WorkerPool::Worker& worker) {
    for (Share units = queue.take(); units.size() != 0; units = queue.take()) {
      if (worker.worker_idx == 1) {
        num_of_slow.fetch_add(units.size());
        while (num_done.load() < 100 - units.size()) std::this_thread::yield();
      }
      num_done.fetch_add(units.size());
    }
  });
  CHECK(num_of_slow.load() <= 25);  // the largest share of two workers
  CHECK(num_done.load() == 100);
}

}  // namespace
}  // namespace tandem::tests
