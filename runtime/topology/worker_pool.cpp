#include "runtime/topology/worker_pool.h"

#include <fmt/format.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/base/errors.h"
#include "runtime/topology/arrival_tree.h"
#include "runtime/topology/wait_word.h"

namespace tandem {
namespace {

// Waiting for other workers, and between steps: about what falling asleep and being woken costs,
// so that a wait is at most twice as dear as the better of both. A worker that waits for one that
// has lost its core thus gives its own away soon, and gets it back when it is needed.
constexpr auto kSpin = std::chrono::microseconds(100);
// Waiting for the next run() of a step: longer than the dense part of a layer on another processor.
constexpr auto kStepSpin = std::chrono::milliseconds(2);

// Where one worker belongs.
struct Place {
  int topology_node_idx = 0;
  int processor = -1;  // -1: anywhere
};

// Threads of each node: its share by cores, but none goes without where there are enough of them.
std::vector<size_t> threads_of_nodes(const Topology& topology, size_t num_threads) {
  const std::vector<NumaNode>& nodes = topology.nodes;
  std::vector<size_t> num_of(nodes.size(), 0);
  const auto num_cores = static_cast<size_t>(topology.num_cores());
  for (size_t worker_idx = 0; worker_idx < num_threads; ++worker_idx) {
    size_t core_idx = worker_idx * num_cores / num_threads;
    size_t node_idx = 0;
    while (core_idx >= nodes[node_idx].core_os_idx.size()) {
      core_idx -= nodes[node_idx++].core_os_idx.size();
    }
    ++num_of[node_idx];
  }
  for (size_t& num : num_of) {
    if (num > 0 || num_threads < nodes.size()) continue;
    --*std::max_element(num_of.begin(), num_of.end());
    ++num;
  }
  return num_of;
}

// In the order of the nodes, spread over the cores of each.
std::vector<Place> places_of(const Topology& topology, int num_threads) {
  const auto num_places = static_cast<size_t>(num_threads);
  if (topology.num_cores() == 0) return std::vector<Place>(num_places);
  const std::vector<size_t> num_of = threads_of_nodes(topology, num_places);
  std::vector<Place> places;
  for (size_t node_idx = 0; node_idx < num_of.size(); ++node_idx) {
    const std::vector<int>& cores = topology.nodes[node_idx].core_os_idx;
    for (size_t idx = 0; idx < num_of[node_idx]; ++idx) {
      places.push_back({.topology_node_idx = static_cast<int>(node_idx),
                        .processor = cores[idx * cores.size() / num_of[node_idx]]});
    }
  }
  return places;
}

// A refusal (a changed cpuset) costs speed only.
void pin(pthread_t thread, int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(processor), &set);
  static_cast<void>(pthread_setaffinity_np(thread, sizeof(set), &set));
}

// Which worker the thread is while it runs a task.
thread_local int current_worker_idx = 0;

}  // namespace

struct WorkerPool::Impl {
  // What one node's workers look at.
  struct Team {
    int num_workers = 0;
    int node_os_idx = -1;
    alignas(64) WaitWord round;  // counts run() calls: a change is the signal to work
    // Of this run, in the same cache line as its signal.
    const FunctionRef<void(const Worker&)>* task = nullptr;
    uint32_t num_runs = 0;
    alignas(64) WaitWord barrier;  // counts barriers
  };

  std::vector<Worker> workers;
  std::vector<int> node_sizes;
  std::deque<Team> teams;  // never moved
  std::unique_ptr<ArrivalTree> at_barrier, at_end;
  std::vector<std::thread> threads;  // of workers 1..; worker 0 is the caller of run()
  bool oversubscribed = false;       // more threads than cores: whoever spins is in the way
  int first_processor = -1;          // of worker 0; -1: anywhere

  alignas(64) WaitWord finished;  // counts run() calls that all workers have finished
  alignas(64) std::atomic<int> num_steps{0};
  bool stopping = false;
  cpu_set_t caller_affinity{};  // before the outermost step

  void add_workers(const Topology& topology, const std::vector<Place>& places, int num_simulated);
  void start_threads(const std::vector<Place>& places, bool pinned);
  void stop_threads();
  void work(const Worker& worker);
  void run_task(const Worker& worker);
  [[nodiscard]] bool keeps_spinning(std::chrono::nanoseconds waited) const {
    return !oversubscribed && waited < kSpin;
  }
};

void WorkerPool::Impl::work(const Worker& worker) {
  current_worker_idx = worker.worker_idx;
  WaitWord& round = teams[worker.node_idx].round;
  for (uint32_t seen = 0;; ++seen) {
    round.wait_while(seen, [&](std::chrono::nanoseconds waited) {
      return keeps_spinning(waited) || (!oversubscribed && waited < kStepSpin &&
                                        num_steps.load(std::memory_order_relaxed) > 0);
    });
    if (stopping) return;
    run_task(worker);
  }
}

void WorkerPool::Impl::run_task(const Worker& worker) {
  (*teams[worker.node_idx].task)(worker);
  if (at_end->arrive(worker.worker_idx)) finished.advance();
}

WorkerPool::WorkerPool(const Topology& topology, const WorkerPoolOptions& options)
    : impl_(std::make_unique<Impl>()) {
  Impl& pool = *impl_;
  const int num_threads =
      options.num_threads > 0 ? options.num_threads : std::max(topology.num_usable_cores(), 1);
  pool.oversubscribed = num_threads > std::max(topology.num_usable_cores(), 1);
  const std::vector<Place> places = places_of(topology, num_threads);
  pool.add_workers(topology, places, std::min(options.simulated_nodes, num_threads));
  pool.at_barrier = std::make_unique<ArrivalTree>(pool.node_sizes);
  pool.at_end = std::make_unique<ArrivalTree>(pool.node_sizes);
  pool.start_threads(places, options.pin && !pool.oversubscribed);
}

void WorkerPool::Impl::add_workers(const Topology& topology,
                                   const std::vector<Place>& places,
                                   int num_simulated) {
  int previous_team = -1;
  const auto num_threads = static_cast<int>(places.size());
  for (int worker_idx = 0; worker_idx < num_threads; ++worker_idx) {
    const int topology_node_idx = places[worker_idx].topology_node_idx;
    const int team = num_simulated > 0
                         ? static_cast<int>(int64_t{worker_idx} * num_simulated / num_threads)
                         : topology_node_idx;
    if (team != previous_team) {  // nodes without a worker are left out
      const bool is_real = num_simulated == 0 && !topology.nodes.empty();
      teams.emplace_back().node_os_idx = is_real ? topology.nodes[topology_node_idx].os_idx : -1;
      node_sizes.push_back(0);
      previous_team = team;
    }
    workers.push_back({.worker_idx = worker_idx,
                       .node_idx = static_cast<int>(teams.size()) - 1,
                       .idx_in_node = node_sizes.back()++});
    teams.back().num_workers = node_sizes.back();
  }
}

void WorkerPool::Impl::start_threads(const std::vector<Place>& places, bool pinned) {
  if (pinned) first_processor = places.front().processor;
  for (size_t worker_idx = 1; worker_idx < places.size(); ++worker_idx) {
    try {
      threads.emplace_back([this, worker = workers[worker_idx]] { work(worker); });
    } catch (const std::system_error& error) {  // a limit of processes or of address space
      stop_threads();
      throw LoadError(fmt::format("only {} of {} computing threads could be started: {}",
                                  worker_idx, places.size(), error.code().message()));
    }
    if (pinned && places[worker_idx].processor >= 0) {
      pin(threads.back().native_handle(), places[worker_idx].processor);
    }
  }
}

void WorkerPool::Impl::stop_threads() {
  stopping = true;
  for (Team& team : teams) team.round.advance();
  for (std::thread& thread : threads) thread.join();
}

WorkerPool::~WorkerPool() { impl_->stop_threads(); }

int WorkerPool::num_workers() const { return static_cast<int>(impl_->workers.size()); }
int WorkerPool::num_nodes() const { return static_cast<int>(impl_->teams.size()); }
int WorkerPool::workers_in_node(int node_idx) const { return impl_->teams[node_idx].num_workers; }
int WorkerPool::node_os_idx(int node_idx) const { return impl_->teams[node_idx].node_os_idx; }

WorkerPool::Step::Step(WorkerPool& pool) : pool_(pool) {
  Impl& impl = *pool_.impl_;
  if (impl.num_steps.fetch_add(1, std::memory_order_relaxed) > 0 || impl.first_processor < 0)
    return;
  // A caller that shares a core with another worker would halve both.
  if (pthread_getaffinity_np(pthread_self(), sizeof(cpu_set_t), &impl.caller_affinity) == 0) {
    pin(pthread_self(), impl.first_processor);
  }
}

WorkerPool::Step::~Step() {
  Impl& impl = *pool_.impl_;
  if (impl.num_steps.fetch_sub(1, std::memory_order_relaxed) > 1 || impl.first_processor < 0)
    return;
  static_cast<void>(
      pthread_setaffinity_np(pthread_self(), sizeof(cpu_set_t), &impl.caller_affinity));
}

void WorkerPool::run(FunctionRef<void(const Worker&)> task) {
  Impl& pool = *impl_;
  const uint32_t before = pool.finished.value();
  TANDEM_ASSERT(before == pool.teams[0].num_runs, "WorkerPool::run is not reentrant");
  const int outer_worker_idx = std::exchange(current_worker_idx, 0);  // of another pool's task
  for (Impl::Team& team : pool.teams) {
    team.task = &task;
    team.num_runs = before + 1;
    team.round.advance();
  }
  pool.run_task(pool.workers[0]);
  pool.finished.wait_while(
      before, [&](std::chrono::nanoseconds waited) { return pool.keeps_spinning(waited); });
  current_worker_idx = outer_worker_idx;
}

void WorkerPool::barrier() {
  Impl& pool = *impl_;
  const Worker& worker = pool.workers[current_worker_idx];
  WaitWord& barrier = pool.teams[worker.node_idx].barrier;
  const uint32_t seen = barrier.value();
  if (pool.at_barrier->arrive(worker.worker_idx)) {
    for (Impl::Team& team : pool.teams) team.barrier.advance();
    return;
  }
  barrier.wait_while(seen,
                     [&](std::chrono::nanoseconds waited) { return pool.keeps_spinning(waited); });
}

}  // namespace tandem
