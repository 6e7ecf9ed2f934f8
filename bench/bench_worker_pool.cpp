// What the workers themselves cost: handing work over, barriers, waking up, idling, and a job with
// barriers while other processes want the same cores.
//   bench_worker_pool [--threads N] [--json]
#include <fmt/format.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <deque>
#include <exception>
#include <string>
#include <thread>
#include <vector>

#include "bench/support/report.h"
#include "cpu_experts/unit_queue.h"
#include "runtime/topology/cpu_isa.h"
#include "runtime/topology/topology.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::bench {
namespace {

using Clock = std::chrono::steady_clock;

double us_since(Clock::time_point begin) {
  return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
}

void add_distribution(Report& report,
                      const std::string& what,
                      int num_threads,
                      std::vector<double> us) {
  std::sort(us.begin(), us.end());
  const auto at = [&](double share) {
    return Number{us[static_cast<size_t>(share * static_cast<double>(us.size() - 1))], 2};
  };
  report.add_row("microseconds", {{"of", what},
                                  {"threads", int64_t{num_threads}},
                                  {"p10", at(0.1)},
                                  {"median", at(0.5)},
                                  {"p90", at(0.9)},
                                  {"p99", at(0.99)},
                                  {"p99.9", at(0.999)}});
}

// From submitting empty work to its end.
std::vector<double> hand_over_us(WorkerPool& pool, int num_runs, std::chrono::microseconds pause) {
  std::vector<double> us;
  for (int run_idx = 0; run_idx < num_runs; ++run_idx) {
    if (pause.count() > 0) std::this_thread::sleep_for(pause);
    const auto begin = Clock::now();
    pool.run([](const WorkerPool::Worker&) {});
    us.push_back(us_since(begin));
  }
  return us;
}

std::vector<double> barrier_us(WorkerPool& pool) {
  constexpr int kBarriers = 20'000;
  std::vector<double> us(kBarriers);
  pool.run([&](const WorkerPool::Worker& worker) {
    for (double& one : us) {
      const auto begin = Clock::now();
      pool.barrier();
      if (worker.worker_idx == 0) one = us_since(begin);
    }
  });
  return us;
}

void add_overheads(Report& report, const Topology& topology, int num_threads) {
  using std::chrono::microseconds;
  WorkerPool pool(topology, {.num_threads = num_threads});
  {
    const WorkerPool::Step step(pool);
    add_distribution(report, "empty work, submit to done, in a step", pool.num_workers(),
                     hand_over_us(pool, 50'000, microseconds(0)));
    add_distribution(report, "barrier", pool.num_workers(), barrier_us(pool));
  }
  add_distribution(report, "empty work, submit to done, outside a step", pool.num_workers(),
                   hand_over_us(pool, 50'000, microseconds(0)));
  add_distribution(report, "empty work, workers asleep", pool.num_workers(),
                   hand_over_us(pool, 200, microseconds(2000)));
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const std::clock_t cpu_before = std::clock();
  const auto begin = Clock::now();
  std::this_thread::sleep_for(std::chrono::seconds(1));
  const double cpu_us = 1e6 * static_cast<double>(std::clock() - cpu_before) / CLOCKS_PER_SEC;
  report.add_row("idle", {{"threads", int64_t{pool.num_workers()}},
                          {"% of one core", Number{100.0 * cpu_us / us_since(begin), 3}}});
}

// A process that keeps one processor busy; ended by scope, and with its parent.
class BusyProcess {
 public:
  explicit BusyProcess(int processor) : pid_(fork()) {
    if (pid_ != 0) return;
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(static_cast<unsigned>(processor), &set);
    sched_setaffinity(0, sizeof(set), &set);
    for (volatile uint64_t count = 0;;) count = count + 1;
  }
  BusyProcess(const BusyProcess&) = delete;
  BusyProcess& operator=(const BusyProcess&) = delete;
  ~BusyProcess() {
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

 private:
  pid_t pid_;
};

// About a microsecond of arithmetic that depends on itself.
void compute_unit() {
  volatile uint32_t value = 1;
  for (int round = 0; round < 500; ++round) value = value * 1664525 + 1013904223;
}

// The units of a node in two phases.
struct NodeQueues {
  std::array<cpu_experts::UnitQueue, 2> phases;
};

// A layer's form: two phases, the second half as long, with a barrier between; 10 ms on a free
// machine. Units are taken from a node's queue as experts' are, or each worker has its share.
void run_layer(WorkerPool& pool, bool takes) {
  constexpr std::array<int64_t, 2> kUnitsAWorker = {6600, 3300};
  std::deque<NodeQueues> queues(static_cast<size_t>(pool.num_nodes()));
  for (int node_idx = 0; node_idx < pool.num_nodes(); ++node_idx) {
    const int num_workers = pool.workers_in_node(node_idx);
    for (size_t phase = 0; phase < kUnitsAWorker.size(); ++phase) {
      const int64_t num_units = kUnitsAWorker[phase] * num_workers;
      queues[node_idx].phases[phase].reset(num_units, num_units, 100, num_workers);
    }
  }
  pool.run([&](const WorkerPool::Worker& worker) {
    for (size_t phase = 0; phase < kUnitsAWorker.size(); ++phase) {
      if (takes) {
        cpu_experts::UnitQueue& queue = queues[worker.node_idx].phases[phase];
        for (cpu_experts::Share units = queue.take(); units.size() != 0; units = queue.take()) {
          for (int64_t unit = units.begin; unit < units.end; ++unit) compute_unit();
        }
      } else {
        for (int64_t unit = 0; unit < kUnitsAWorker[phase]; ++unit) compute_unit();
      }
      pool.barrier();
    }
  });
}

double mean_layer_ms(WorkerPool& pool, bool takes, double seconds) {
  const WorkerPool::Step step(pool);
  run_layer(pool, takes);
  int num_layers = 0;
  const auto begin = Clock::now();
  for (; us_since(begin) < seconds * 1e6; ++num_layers) run_layer(pool, takes);
  return us_since(begin) * 1e-3 / num_layers;
}

// Half of every core is what a fair system leaves beside one busy process a core: twice the time.
void add_competition(Report& report, const Topology& topology, int num_threads) {
  constexpr double kSeconds = 3.0;
  WorkerPool pool(topology, {.num_threads = num_threads});
  for (const bool takes : {false, true}) {
    const double alone_ms = mean_layer_ms(pool, takes, kSeconds / 2);
    double beside_ms = 0.0;
    {
      std::vector<std::unique_ptr<BusyProcess>> busy;
      for (const NumaNode& node : topology.nodes) {
        for (const int processor : node.core_os_idx) {
          busy.push_back(std::make_unique<BusyProcess>(processor));
        }
      }
      beside_ms = mean_layer_ms(pool, takes, kSeconds);
    }
    report.add_row(
        "a busy process on every core",
        {{"work is", std::string(takes ? "taken as workers come free" : "in equal shares")},
         {"threads", int64_t{pool.num_workers()}},
         {"alone ms", Number{alone_ms, 2}},
         {"beside ms", Number{beside_ms, 2}},
         {"times (2 is fair)", Number{beside_ms / alone_ms, 2}}});
  }
}

void run(int num_threads, bool json) {
  const Topology topology = Topology::detect();
  const int most_threads = num_threads > 0 ? num_threads : topology.num_usable_cores();
  Report report("bench_worker_pool", json);
  report.add_machine(topology, most_threads, isa_name(active_isa()));
  for (int threads = 1; threads < most_threads; threads *= 2) {
    add_overheads(report, topology, threads);
  }
  add_overheads(report, topology, most_threads);
  add_competition(report, topology, most_threads);
  report.print();
}

}  // namespace
}  // namespace tandem::bench

int main(int argc, char** argv) {
  int num_threads = 0;
  bool json = false;
  CLI::App app("Measures what the worker pool costs, alone and beside busy processes",
               "bench_worker_pool");
  app.add_option("--threads", num_threads, "default: one a core")->check(CLI::Range(1, 4096));
  app.add_flag("--json", json, "one JSON object instead of tables");
  CLI11_PARSE(app, argc, argv);
  try {
    tandem::bench::run(num_threads, json);
  } catch (const std::exception& error) {
    fmt::print(stderr, "bench_worker_pool: {}\n", error.what());
    return 1;
  }
  return 0;
}
