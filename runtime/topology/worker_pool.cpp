#include "runtime/topology/worker_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
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

// Spreads the workers over the cores in node order, so that every node gets its share.
std::vector<Place> places_of(const Topology& topology, int num_threads) {
  std::vector<Place> cores;
  for (size_t node_idx = 0; node_idx < topology.nodes.size(); ++node_idx) {
    for (const int processor : topology.nodes[node_idx].core_os_idx) {
      cores.push_back({.topology_node_idx = static_cast<int>(node_idx), .processor = processor});
    }
  }
  std::vector<Place> places(static_cast<size_t>(num_threads));
  if (cores.empty()) return places;
  for (size_t worker_idx = 0; worker_idx < places.size(); ++worker_idx) {
    places[worker_idx] = cores[worker_idx * cores.size() / places.size()];
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

// A team's next chunk in one word: the run (32 bits), the claim_in_node() of that run (12), the
// chunk (20). A word of an earlier claim says that nobody has begun with this one: no reset, no
// barrier.
constexpr int kChunkBits = 20;
constexpr int kPhaseBits = 12;
constexpr int64_t kMaxChunks = (int64_t{1} << kChunkBits) - 1;

constexpr uint64_t first_chunk(uint32_t num_runs, uint32_t num_claims) {
  const uint64_t phase = num_claims & ((1U << kPhaseBits) - 1);
  return (uint64_t{num_runs} << kPhaseBits | phase) << kChunkBits;
}
constexpr uint64_t phase_of(uint64_t claim) { return claim >> kChunkBits; }
constexpr uint64_t run_of(uint64_t claim) { return claim >> (kChunkBits + kPhaseBits); }

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
    alignas(64) std::atomic<uint64_t> claim{0};
  };
  struct alignas(64) WorkerState {
    uint32_t num_claims = 0;  // of this run
  };

  std::vector<Worker> workers;
  std::vector<int> node_sizes;
  std::deque<Team> teams;  // never moved
  std::unique_ptr<ArrivalTree> at_barrier, at_end;
  std::vector<WorkerState> states;
  std::vector<std::thread> threads;  // of workers 1..; worker 0 is the caller of run()
  bool oversubscribed = false;       // more threads than cores: whoever spins is in the way
  int first_processor = -1;          // of worker 0; -1: anywhere

  alignas(64) WaitWord finished;  // counts run() calls that all workers have finished
  alignas(64) std::atomic<int> num_steps{0};
  bool stopping = false;
  cpu_set_t caller_affinity{};  // before the outermost step

  void add_workers(const Topology& topology, const std::vector<Place>& places, int num_simulated);
  void start_threads(const std::vector<Place>& places, bool pinned);
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
  states[worker.worker_idx].num_claims = 0;
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
  pool.states.resize(pool.workers.size());
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
    threads.emplace_back([this, worker = workers[worker_idx]] { work(worker); });
    if (pinned && places[worker_idx].processor >= 0) {
      pin(threads.back().native_handle(), places[worker_idx].processor);
    }
  }
}

WorkerPool::~WorkerPool() {
  impl_->stopping = true;
  for (Impl::Team& team : impl_->teams) team.round.advance();
  for (std::thread& thread : impl_->threads) thread.join();
}

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

void WorkerPool::parallel_for(int64_t num_items,
                              int64_t grain,
                              FunctionRef<void(int64_t, int64_t)> task) {
  if (num_items <= 0) return;
  const int64_t num_parts =
      std::clamp<int64_t>(num_items / std::max<int64_t>(grain, 1), 1, num_workers());
  if (num_parts == 1) {
    task(0, num_items);
    return;
  }
  run([&](const Worker& worker) {
    if (worker.worker_idx >= num_parts) return;
    const int64_t begin = num_items * worker.worker_idx / num_parts;
    const int64_t end = num_items * (worker.worker_idx + 1) / num_parts;
    task(begin, end);
  });
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

void WorkerPool::claim_in_node(const Worker& worker,
                               int64_t num_items,
                               int64_t grain,
                               FunctionRef<void(int64_t, int64_t)> task) {
  Impl& pool = *impl_;
  const int64_t step = std::max<int64_t>(grain, 1);
  const int64_t num_chunks = num_items <= 0 ? 0 : (num_items - 1) / step + 1;
  TANDEM_CHECK(num_chunks <= kMaxChunks, "too many chunks to claim");
  Impl::Team& team = pool.teams[worker.node_idx];
  const uint64_t first = first_chunk(team.num_runs, ++pool.states[worker.worker_idx].num_claims);
  std::atomic<uint64_t>& next = team.claim;
  uint64_t seen = next.load(std::memory_order_relaxed);
  while (true) {
    const bool begun = phase_of(seen) == phase_of(first);
    // Somebody is at a later claim of this run: nothing of this one is left.
    if (!begun && run_of(seen) == run_of(first) && seen > first) return;
    const uint64_t mine = begun ? seen : first;
    const auto chunk_idx = static_cast<int64_t>(mine - first);
    if (chunk_idx >= num_chunks) return;
    if (!next.compare_exchange_weak(seen, mine + 1, std::memory_order_relaxed)) continue;
    task(chunk_idx * step, std::min(num_items, (chunk_idx + 1) * step));
    seen = next.load(std::memory_order_relaxed);
  }
}

}  // namespace tandem
