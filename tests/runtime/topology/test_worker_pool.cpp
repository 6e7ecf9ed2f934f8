#include "runtime/topology/worker_pool.h"

#include <sched.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <chrono>
#include <ctime>
#include <string_view>
#include <thread>
#include <vector>

#include "runtime/base/errors.h"

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

TEST_CASE("no node goes without a worker where there are enough", "[topology]") {
  Topology topology;
  topology.nodes = {{.os_idx = 0, .core_os_idx = {}}, {.os_idx = 1, .core_os_idx = {8, 9}}};
  for (int processor = 0; processor < 8; ++processor) {
    topology.nodes[0].core_os_idx.push_back(processor);
  }
  for (const int num_threads : {2, 3, 5, 10, 25}) {
    const WorkerPool pool(topology, {.num_threads = num_threads, .pin = false});
    REQUIRE(pool.num_workers() == num_threads);
    REQUIRE(pool.num_nodes() == 2);
    CHECK(pool.workers_in_node(1) == std::max(num_threads / 5, 1));
  }
  CHECK(WorkerPool(topology, {.num_threads = 1, .pin = false}).num_nodes() == 1);
}

// In a child process, as a user who may have no more processes.
TEST_CASE("threads that the system does not give are an error", "[topology]") {
  const Topology topology = Topology::detect();
  const pid_t child = fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    const rlimit none = {.rlim_cur = 1, .rlim_max = 1};
    if (getuid() == 0 && setuid(65534) != 0) _exit(2);
    if (setrlimit(RLIMIT_NPROC, &none) != 0) _exit(3);
    try {
      const WorkerPool pool(topology, {.num_threads = 3, .pin = false});
      _exit(4);
    } catch (const LoadError& error) {
      _exit(std::string_view(error.what()).starts_with("only 1 of 3 computing threads") ? 0 : 5);
    }
  }
  int status = -1;
  REQUIRE(waitpid(child, &status, 0) == child);
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
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

}  // namespace
}  // namespace tandem::tests
