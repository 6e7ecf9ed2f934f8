#include "runtime/topology/worker_pool.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <ctime>
#include <thread>
#include <vector>

namespace tandem::tests {
namespace {

TEST_CASE("every worker runs a task exactly once, for any number of threads", "[topology]") {
  const int num_threads = GENERATE(1, 2, 3, 7);
  WorkerPool pool(Topology::detect(), {.num_threads = num_threads});
  REQUIRE(pool.num_workers() == num_threads);
  std::vector<int> calls(static_cast<size_t>(num_threads), 0);
  constexpr int kRounds = 300;
  for (int round = 0; round < kRounds; ++round) {
    pool.run([&](const WorkerPool::Worker& worker) { ++calls[worker.worker_idx]; });
  }
  CHECK(std::all_of(calls.begin(), calls.end(), [](int count) { return count == kRounds; }));
}

TEST_CASE("parallel_for covers every item once, whatever the grain", "[topology]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 3});
  for (const int64_t num_items : {0, 1, 2, 3, 64, 1000}) {
    for (const int64_t grain : {1, 7, 400, 5000}) {
      std::vector<std::atomic<int>> seen(static_cast<size_t>(num_items));
      pool.parallel_for(num_items, grain, [&](int64_t begin, int64_t end) {
        for (int64_t idx = begin; idx < end; ++idx) seen[idx].fetch_add(1);
      });
      CHECK(std::all_of(seen.begin(), seen.end(),
                        [](const auto& count) { return count.load() == 1; }));
    }
  }
}

TEST_CASE("no worker passes a barrier before all have reached it", "[topology]") {
  const int num_threads = GENERATE(1, 2, 5);
  WorkerPool pool(Topology::detect(), {.num_threads = num_threads});
  std::atomic<int> arrived{0};
  std::atomic<int> num_early{0};
  pool.run([&](const WorkerPool::Worker&) {
    for (int round = 1; round <= 100; ++round) {
      arrived.fetch_add(1);
      pool.barrier();
      if (arrived.load() < round * num_threads) num_early.fetch_add(1);
      pool.barrier();
    }
  });
  CHECK(num_early.load() == 0);
  CHECK(arrived.load() == 100 * num_threads);
}

TEST_CASE("simulated nodes split the workers evenly and in order", "[topology]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 5, .simulated_nodes = 2});
  REQUIRE(pool.num_nodes() == 2);
  CHECK(pool.workers_in_node(0) + pool.workers_in_node(1) == 5);
  CHECK(std::abs(pool.workers_in_node(0) - pool.workers_in_node(1)) <= 1);
  std::vector<WorkerPool::Worker> workers(5);
  pool.run([&](const WorkerPool::Worker& worker) { workers[worker.worker_idx] = worker; });
  for (int idx = 1; idx < 5; ++idx) {
    const bool same_node = workers[idx].node_idx == workers[idx - 1].node_idx;
    CHECK(workers[idx].node_idx - workers[idx - 1].node_idx == (same_node ? 0 : 1));
    CHECK(workers[idx].idx_in_node == (same_node ? workers[idx - 1].idx_in_node + 1 : 0));
  }
}

TEST_CASE("workers follow the cores of uneven nodes, nodes without a worker are left out",
          "[topology]") {
  Topology topology;  // processor numbers are not looked at without pinning
  topology.nodes.push_back({.os_idx = 3, .memory_size_bytes = 1, .core_os_idx = {0}});
  topology.nodes.push_back({.os_idx = 5, .memory_size_bytes = 1, .core_os_idx = {1, 2, 3}});
  {
    const WorkerPool pool(topology, {.pin = false});
    REQUIRE(pool.num_nodes() == 2);
    CHECK(pool.workers_in_node(0) == 1);
    CHECK(pool.workers_in_node(1) == 3);
    CHECK(pool.node_os_idx(0) == 3);
    CHECK(pool.node_os_idx(1) == 5);
  }
  const WorkerPool single(topology, {.num_threads = 1, .pin = false});
  CHECK(single.num_nodes() == 1);
  CHECK(single.node_os_idx(0) == 3);
}

TEST_CASE("an idle pool sleeps", "[topology]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 4});
  pool.run([](const WorkerPool::Worker&) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // past the spinning
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  const double cpu_seconds = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
  CHECK(cpu_seconds < 0.01 * 0.5 + 0.005);  // 1 % of one core, and the clock's own grain
}

TEST_CASE("a pool that slept wakes up for the next task", "[topology]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 3});
  std::atomic<int> num_calls{0};
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    pool.run([&](const WorkerPool::Worker&) { num_calls.fetch_add(1); });
  }
  CHECK(num_calls.load() == 60);
}

TEST_CASE("a pool sleeps between steps and wakes up inside one", "[topology]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 2});
  std::atomic<int> num_calls{0};
  for (int round = 0; round < 5; ++round) {
    {
      const WorkerPool::Step step(pool);
      const WorkerPool::Step inner(pool);
      for (int run = 0; run < 3; ++run) {
        pool.run([&](const WorkerPool::Worker&) { num_calls.fetch_add(1); });
        std::this_thread::sleep_for(std::chrono::milliseconds(run == 1 ? 5 : 0));
      }
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK(num_calls.load() == 30);
  const std::clock_t before = std::clock();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  CHECK(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < 0.01 * 0.3 + 0.005);
}

int num_allowed_processors() {
  cpu_set_t set;
  CPU_ZERO(&set);
  REQUIRE(sched_getaffinity(0, sizeof(set), &set) == 0);
  return CPU_COUNT(&set);
}

TEST_CASE("a step keeps its caller on one core and gives it back its affinity", "[topology]") {
  WorkerPool pool(Topology::detect(), {});
  const int before = num_allowed_processors();
  {
    const WorkerPool::Step step(pool);
    const WorkerPool::Step inner(pool);
    CHECK(num_allowed_processors() == 1);
  }
  CHECK(num_allowed_processors() == before);
}

TEST_CASE("a pool has no more threads than the control group's share of processors allows",
          "[topology]") {
  Topology topology;
  topology.nodes.push_back({.os_idx = 0, .memory_size_bytes = 1, .core_os_idx = {0, 1, 2, 3}});
  topology.nodes.push_back({.os_idx = 1, .memory_size_bytes = 1, .core_os_idx = {4, 5, 6, 7}});
  struct Limit {
    double processors;
    int num_workers;
  };
  for (const Limit& limit : {Limit{0.0, 8}, {0.4, 1}, {1.0, 1}, {2.5, 2}, {5.0, 5}, {64.0, 8}}) {
    topology.cpu_limit = limit.processors;
    const WorkerPool pool(topology, {.pin = false});
    CHECK(pool.num_workers() == limit.num_workers);
    CHECK(pool.num_nodes() == (limit.num_workers > 1 ? 2 : 1));
  }
}

TEST_CASE("a node's workers claim every item once, claim after claim and run after run",
          "[topology]") {
  const int num_threads = GENERATE(1, 2, 5);
  WorkerPool pool(Topology::detect(), {.num_threads = num_threads, .simulated_nodes = 2});
  constexpr int kClaims = 7;
  for (int round = 0; round < 100; ++round) {
    const int64_t num_items = round * 3 % 50;
    const int64_t grain = 1 + round % 5;
    std::vector<std::atomic<int>> seen(static_cast<size_t>(pool.num_nodes() * kClaims * 50));
    pool.run([&](const WorkerPool::Worker& worker) {
      for (int claim = 0; claim < kClaims; ++claim) {
        std::atomic<int>* items = &seen[(worker.node_idx * kClaims + claim) * 50];
        pool.claim_in_node(worker, num_items, grain, [&](int64_t begin, int64_t end) {
          if (end - begin > grain) items[begin].fetch_add(100);
          for (int64_t item = begin; item < end; ++item) items[item].fetch_add(1);
        });
      }
    });
    int num_wrong = 0;
    for (size_t idx = 0; idx < seen.size(); ++idx) {
      num_wrong += seen[idx].load() != (static_cast<int64_t>(idx % 50) < num_items ? 1 : 0);
    }
    REQUIRE(num_wrong == 0);
  }
}

TEST_CASE("who waits long for a worker that is held up gives its core away", "[topology]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 2});
  const int late_worker = GENERATE(0, 1);
  const bool at_barrier = GENERATE(false, true);
  const WorkerPool::Step step(pool);
  const std::clock_t before = std::clock();
  pool.run([&](const WorkerPool::Worker& worker) {
    // The caller that ends first waits for the others, with or without a barrier.
    if (worker.worker_idx == late_worker) {
      std::this_thread::sleep_for(std::chrono::milliseconds(200));
    }
    if (at_barrier) pool.barrier();
  });
  CHECK(static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC < 0.05);
}

TEST_CASE("a worker that is held up keeps one chunk, the others of its node do the rest",
          "[topology]") {
  WorkerPool pool(Topology::detect(), {.num_threads = 2});
  std::atomic<int> num_of_slow{0};
  std::atomic<int> num_done{0};
  pool.run([&](const WorkerPool::Worker& worker) {
    pool.claim_in_node(worker, 100, 1, [&](int64_t, int64_t) {
      if (worker.worker_idx == 1) {
        num_of_slow.fetch_add(1);
        while (num_done.load() < 99) std::this_thread::yield();
      }
      num_done.fetch_add(1);
    });
  });
  CHECK(num_of_slow.load() <= 1);
  CHECK(num_done.load() == 100);
}

}  // namespace
}  // namespace tandem::tests
