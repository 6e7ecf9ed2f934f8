// The machine's limits, measured in the same run as what is compared with them.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/topology/worker_pool.h"

namespace tandem {

// Reads memory of its own with all workers, to be repeated beside the work that is compared with
// it.
class ReadProbe {
 public:
  // size_bytes beyond every cache: >= 512 MiB is sensible. `pool` outlives the probe.
  ReadProbe(WorkerPool& pool, int64_t size_bytes);
  ~ReadProbe();
  [[nodiscard]] double read_gb_per_s();  // one pass, GB/s (10^9)

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Median read bandwidth of `size_bytes` (beyond every cache: >= 512 MiB is sensible) on all
// workers, GB/s (10^9).
double measure_read_bandwidth_gb_per_s(WorkerPool& pool, int64_t size_bytes, int repeats);
// Median copy bandwidth (bytes read + bytes written), GB/s.
double measure_copy_bandwidth_gb_per_s(WorkerPool& pool, int64_t size_bytes, int repeats);

// Both, of a part of the machine by its own cores from its own memory.
struct StreamBandwidth {
  int node_os_idx = -1;  // -1: all nodes at once
  int num_threads = 0;
  double read_gb_per_s = 0.0;
  double copy_gb_per_s = 0.0;
};
// Of every node by itself, when there are several, then of all; num_threads 0: one a core.
std::vector<StreamBandwidth> measure_stream_bandwidths(const Topology& topology,
                                                       int num_threads,
                                                       int64_t size_bytes,
                                                       int repeats);

}  // namespace tandem
