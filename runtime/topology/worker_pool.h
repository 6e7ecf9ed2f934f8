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
  // Every node has a worker at least, where there are as many; others are left out. Throws
  // LoadError where the system does not give as many threads.
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

  // Waits inside a task until every worker of the pool has arrived.
  void barrier();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
