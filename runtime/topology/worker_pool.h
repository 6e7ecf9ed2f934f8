// Pinned workers, one team per NUMA node: the only threads that compute. gpu/host and cpu_experts
// share one pool, so that two spinning teams never fight for the same cores.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/base/function_ref.h"
#include "runtime/topology/topology.h"

namespace tandem {

struct WorkerPoolOptions {
  int num_threads = 0;  // 0: Topology::num_usable_cores()
  bool pin = true;
  int simulated_nodes =
      0;  // > 0: split the workers into this many teams on a one-node machine (tests)
};

class WorkerPool {
 public:
  WorkerPool(const Topology& topology, const WorkerPoolOptions& options);
  ~WorkerPool();
  WorkerPool(const WorkerPool&) = delete;
  WorkerPool& operator=(const WorkerPool&) = delete;

  struct Worker {
    int worker_idx = 0;   // 0 .. num_workers-1 over all nodes
    int node_idx = 0;     // team
    int idx_in_node = 0;  // 0 .. workers_in_node(node_idx)-1
  };

  [[nodiscard]] int num_workers() const;
  [[nodiscard]] int num_nodes() const;
  [[nodiscard]] int workers_in_node(int node_idx) const;
  // The system's number of the node's memory; -1 for a simulated node (its memory is anywhere).
  [[nodiscard]] int node_os_idx(int node_idx) const;

  // A step: many run() calls in close succession. While one lives, workers without work spin for
  // the next run() instead of falling asleep, and the thread that made it (the caller of run(),
  // who takes the part of worker 0) stays on worker 0's core. May be nested in the same thread.
  class Step {
   public:
    explicit Step(WorkerPool& pool);
    ~Step();
    Step(const Step&) = delete;
    Step& operator=(const Step&) = delete;

   private:
    WorkerPool& pool_;
  };

  // Runs `task` once on every worker and returns when all have finished; the calling thread is
  // worker 0. `task` must not throw. Not reentrant; one caller at a time. Allocates nothing.
  void run(FunctionRef<void(const Worker&)> task);

  // Splits [0, num_items) into chunks of at least `grain` items over all workers: task(begin, end).
  void parallel_for(int64_t num_items, int64_t grain, FunctionRef<void(int64_t, int64_t)> task);

  // Waits inside a task until every worker of the pool has arrived.
  void barrier();

  // Inside a task: the workers of one node share [0, num_items), task(begin, end) for chunks of at
  // most `grain` items, each once, by whoever is free: a worker that lost its core to another
  // process holds up one chunk and not its whole share. Every worker of the node calls it, with
  // the same numbers; it does not wait for the others. At most 2^20 - 1 chunks.
  void claim_in_node(const Worker& worker,
                     int64_t num_items,
                     int64_t grain,
                     FunctionRef<void(int64_t, int64_t)> task);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
