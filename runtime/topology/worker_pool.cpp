#include "runtime/topology/worker_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "runtime/base/check.h"

namespace tandem {
namespace {

// How long an idle worker spins before it sleeps: the gap between two operations of a step is far
// shorter, the gap between two requests far longer.
constexpr auto kSpin = std::chrono::microseconds(100);

void pause_cpu() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

// Spins while `done` is false. With more threads than cores a spinning thread keeps the one it
// waits for from running, so it gives its core away then.
template <typename Done>
void spin_until(const Done& done, bool oversubscribed) {
  for (int round = 0; !done(); ++round) {
    if (oversubscribed || (round & 1023) == 1023) {
      std::this_thread::yield();
    } else {
      pause_cpu();
    }
  }
}

void pin_to(std::thread& thread, int processor) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<unsigned>(processor), &set);
  // A refusal (a changed cpuset) costs speed only.
  static_cast<void>(pthread_setaffinity_np(thread.native_handle(), sizeof(set), &set));
}

}  // namespace

struct WorkerPool::Impl {
  std::vector<Worker> workers;
  std::vector<int> node_sizes;
  std::vector<int> node_os_idx;
  bool oversubscribed = false;
  std::vector<std::thread> threads;  // of workers 1..; worker 0 is the caller of run()

  // `round` counts run() calls: a change is the signal to work, published with the task before it.
  alignas(64) std::atomic<uint32_t> round{0};
  alignas(64) std::atomic<int> num_busy{0};
  alignas(64) std::atomic<uint32_t> barrier_round{0};
  alignas(64) std::atomic<int> num_at_barrier{0};
  const FunctionRef<void(const Worker&)>* task = nullptr;
  bool stopping = false;

  void work(const Worker& worker);
  bool wait_for_round(uint32_t seen);
};

void WorkerPool::Impl::work(const Worker& worker) {
  uint32_t seen = 0;
  while (wait_for_round(seen)) {
    ++seen;
    (*task)(worker);
    num_busy.fetch_sub(1, std::memory_order_release);
  }
}

// True when there is work, false when the pool ends.
bool WorkerPool::Impl::wait_for_round(uint32_t seen) {
  const auto deadline = std::chrono::steady_clock::now() + kSpin;
  while (round.load(std::memory_order_acquire) == seen) {
    for (int pauses = 0; pauses < 64 && round.load(std::memory_order_acquire) == seen; ++pauses) {
      if (oversubscribed) {
        std::this_thread::yield();
      } else {
        pause_cpu();
      }
    }
    if (std::chrono::steady_clock::now() > deadline) round.wait(seen, std::memory_order_acquire);
  }
  return !stopping;
}

namespace {

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

}  // namespace

WorkerPool::WorkerPool(const Topology& topology, const WorkerPoolOptions& options)
    : impl_(std::make_unique<Impl>()) {
  const int num_cores = std::max(topology.num_cores(), 1);
  const int num_threads = options.num_threads > 0 ? options.num_threads : num_cores;
  const int num_simulated = std::min(options.simulated_nodes, num_threads);
  impl_->oversubscribed = num_threads > num_cores;

  const std::vector<Place> places = places_of(topology, num_threads);
  int previous_team = -1;
  for (int worker_idx = 0; worker_idx < num_threads; ++worker_idx) {
    const int topology_node_idx = places[worker_idx].topology_node_idx;
    const int team = num_simulated > 0
                         ? static_cast<int>(int64_t{worker_idx} * num_simulated / num_threads)
                         : topology_node_idx;
    if (team != previous_team) {  // nodes without a worker are left out
      impl_->node_sizes.push_back(0);
      const bool is_real = num_simulated == 0 && !topology.nodes.empty();
      impl_->node_os_idx.push_back(is_real ? topology.nodes[topology_node_idx].os_idx : -1);
      previous_team = team;
    }
    const int node_idx = static_cast<int>(impl_->node_sizes.size()) - 1;
    impl_->workers.push_back({.worker_idx = worker_idx,
                              .node_idx = node_idx,
                              .idx_in_node = impl_->node_sizes[node_idx]++});
  }
  for (int worker_idx = 1; worker_idx < num_threads; ++worker_idx) {
    impl_->threads.emplace_back(
        [impl = impl_.get(), worker = impl_->workers[worker_idx]] { impl->work(worker); });
    if (options.pin && !impl_->oversubscribed && places[worker_idx].processor >= 0) {
      pin_to(impl_->threads.back(), places[worker_idx].processor);
    }
  }
}

WorkerPool::~WorkerPool() {
  impl_->stopping = true;
  impl_->round.fetch_add(1, std::memory_order_release);
  impl_->round.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

int WorkerPool::num_workers() const { return static_cast<int>(impl_->workers.size()); }
int WorkerPool::num_nodes() const { return static_cast<int>(impl_->node_sizes.size()); }
int WorkerPool::workers_in_node(int node_idx) const { return impl_->node_sizes[node_idx]; }
int WorkerPool::node_os_idx(int node_idx) const { return impl_->node_os_idx[node_idx]; }

void WorkerPool::run(FunctionRef<void(const Worker&)> task) {
  Impl& pool = *impl_;
  TANDEM_ASSERT(pool.num_busy.load() == 0, "WorkerPool::run is not reentrant");
  if (!pool.threads.empty()) {
    pool.task = &task;
    pool.num_busy.store(static_cast<int>(pool.threads.size()), std::memory_order_relaxed);
    pool.round.fetch_add(1, std::memory_order_release);
    pool.round.notify_all();
  }
  task(pool.workers[0]);
  spin_until([&] { return pool.num_busy.load(std::memory_order_acquire) == 0; },
             pool.oversubscribed);
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
  const uint32_t seen = pool.barrier_round.load(std::memory_order_acquire);
  if (pool.num_at_barrier.fetch_add(1, std::memory_order_acq_rel) + 1 == num_workers()) {
    pool.num_at_barrier.store(0, std::memory_order_relaxed);
    pool.barrier_round.fetch_add(1, std::memory_order_release);
    return;
  }
  spin_until([&] { return pool.barrier_round.load(std::memory_order_acquire) != seen; },
             pool.oversubscribed);
}

}  // namespace tandem
