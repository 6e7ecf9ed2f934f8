#include "runtime/topology/bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <new>
#include <vector>

namespace tandem {
namespace {

// Anonymous memory in huge pages where the system gives them; unmapped by scope.
class Arena {
 public:
  explicit Arena(int64_t size_bytes) : size_bytes_(static_cast<size_t>(size_bytes)) {
    void* address =
        mmap(nullptr, size_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (address == MAP_FAILED) throw std::bad_alloc();
    static_cast<void>(madvise(address, size_bytes_, MADV_HUGEPAGE));
    data_ = static_cast<std::byte*>(address);
  }
  ~Arena() { munmap(data_, size_bytes_); }
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  [[nodiscard]] std::byte* data() const { return data_; }

 private:
  size_t size_bytes_;
  std::byte* data_ = nullptr;
};

// Eight independent sums: enough loads in flight for any core.
template <typename Vector>
[[gnu::always_inline]] inline uint64_t sum_with(const std::byte* data, int64_t size_bytes) {
  constexpr int kStreams = 8;
  constexpr int64_t kLanes = sizeof(Vector) / sizeof(uint64_t);
  Vector sums[kStreams] = {};
  const auto* vectors = reinterpret_cast<const Vector*>(data);
  const int64_t num_vectors = size_bytes / int64_t{sizeof(Vector)} / kStreams * kStreams;
  for (int64_t vector_idx = 0; vector_idx < num_vectors; vector_idx += kStreams) {
    for (int stream = 0; stream < kStreams; ++stream) sums[stream] += vectors[vector_idx + stream];
  }
  uint64_t total = 0;
  for (const Vector& sum : sums) {
    for (int64_t lane = 0; lane < kLanes; ++lane) total += sum[lane];
  }
  return total;
}

using Vector16 = uint64_t __attribute__((vector_size(16)));
uint64_t sum_of(const std::byte* data, int64_t size_bytes) {
  return sum_with<Vector16>(data, size_bytes);
}

#if defined(__x86_64__)
using Vector32 = uint64_t __attribute__((vector_size(32)));
[[gnu::target("avx2")]] uint64_t sum_of_avx2(const std::byte* data, int64_t size_bytes) {
  return sum_with<Vector32>(data, size_bytes);
}

// Past the caches: an ordinary store reads the line first, and memcpy() does so up to a size that
// differs from machine to machine.
void stream_copy(std::byte* target, const std::byte* source, int64_t size_bytes) {
  using Vector = long long __attribute__((vector_size(16)));
  const auto* from = reinterpret_cast<const Vector*>(source);
  auto* to = reinterpret_cast<Vector*>(target);
  const int64_t num_vectors = size_bytes / int64_t{sizeof(Vector)} / 4 * 4;
  for (int64_t vector_idx = 0; vector_idx < num_vectors; vector_idx += 4) {
    for (int64_t part = 0; part < 4; ++part) {
#if defined(__clang__)
      __builtin_nontemporal_store(from[vector_idx + part], to + vector_idx + part);
#else
      __builtin_ia32_movntdq(to + vector_idx + part, from[vector_idx + part]);
#endif
    }
  }
  __builtin_ia32_sfence();
}
auto best_sum() { return __builtin_cpu_supports("avx2") != 0 ? sum_of_avx2 : sum_of; }
#else
void stream_copy(std::byte* target, const std::byte* source, int64_t size_bytes) {
  std::memcpy(target, source, static_cast<size_t>(size_bytes));
}
auto best_sum() { return sum_of; }
#endif

constexpr int64_t kPartAlignmentBytes = 4096;

// [begin, end) of one worker's part, aligned to pages.
std::pair<int64_t, int64_t> part_of(int64_t size_bytes, int worker_idx, int num_workers) {
  const int64_t num_pages = size_bytes / kPartAlignmentBytes;
  return {num_pages * worker_idx / num_workers * kPartAlignmentBytes,
          num_pages * (worker_idx + 1) / num_workers * kPartAlignmentBytes};
}

template <typename Work>
double seconds_of(WorkerPool& pool, const Work& work) {
  const WorkerPool::Step step(pool);
  const auto begin = std::chrono::steady_clock::now();
  pool.run(work);
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
}

template <typename Measure>
double median_of(int repeats, const Measure& measure) {
  std::vector<double> values(std::max(repeats, 1));
  for (double& value : values) value = measure();
  const auto middle = values.begin() + static_cast<int64_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

struct ReadProbe::Impl {
  WorkerPool& pool;
  int64_t size_bytes;
  Arena arena;
  std::atomic<uint64_t> kept{0};  // what is summed is used, so that no load can be left out
};

ReadProbe::ReadProbe(WorkerPool& pool, int64_t size_bytes)
    : impl_(new Impl{.pool = pool, .size_bytes = size_bytes, .arena = Arena(size_bytes)}) {
  pool.run([&](const WorkerPool::Worker& worker) {
    const auto [begin, end] = part_of(size_bytes, worker.worker_idx, pool.num_workers());
    std::memset(impl_->arena.data() + begin, 1, static_cast<size_t>(end - begin));
  });
}
ReadProbe::~ReadProbe() = default;

double ReadProbe::read_gb_per_s() {
  Impl& probe = *impl_;
  const auto sum = best_sum();
  const double seconds = seconds_of(probe.pool, [&](const WorkerPool::Worker& worker) {
    const auto [begin, end] =
        part_of(probe.size_bytes, worker.worker_idx, probe.pool.num_workers());
    probe.kept.fetch_add(sum(probe.arena.data() + begin, end - begin), std::memory_order_relaxed);
  });
  return probe.kept.load() == 0 ? 0.0 : static_cast<double>(probe.size_bytes) / seconds * 1e-9;
}

double measure_read_bandwidth_gb_per_s(WorkerPool& pool, int64_t size_bytes, int repeats) {
  ReadProbe probe(pool, size_bytes);
  return median_of(repeats, [&] { return probe.read_gb_per_s(); });
}

double measure_copy_bandwidth_gb_per_s(WorkerPool& pool, int64_t size_bytes, int repeats) {
  const Arena source(size_bytes);
  const Arena target(size_bytes);
  pool.run([&](const WorkerPool::Worker& worker) {
    const auto [begin, end] = part_of(size_bytes, worker.worker_idx, pool.num_workers());
    std::memset(source.data() + begin, 1, static_cast<size_t>(end - begin));
    std::memset(target.data() + begin, 2, static_cast<size_t>(end - begin));
  });
  return median_of(repeats, [&] {
    const double seconds = seconds_of(pool, [&](const WorkerPool::Worker& worker) {
      const auto [begin, end] = part_of(size_bytes, worker.worker_idx, pool.num_workers());
      stream_copy(target.data() + begin, source.data() + begin, end - begin);
    });
    return 2.0 * static_cast<double>(size_bytes) / seconds * 1e-9;
  });
}

std::vector<StreamBandwidth> measure_stream_bandwidths(const Topology& topology,
                                                       int num_threads,
                                                       int64_t size_bytes,
                                                       int repeats) {
  std::vector<StreamBandwidth> bandwidths;
  const auto measure = [&](const Topology& part, int node_os_idx, int part_num_threads) {
    WorkerPool pool(part, {.num_threads = part_num_threads});
    bandwidths.push_back(
        {.node_os_idx = node_os_idx,
         .num_threads = pool.num_workers(),
         .read_gb_per_s = measure_read_bandwidth_gb_per_s(pool, size_bytes, repeats),
         .copy_gb_per_s = measure_copy_bandwidth_gb_per_s(pool, size_bytes / 2, repeats)});
  };
  if (topology.nodes.size() > 1) {
    const WorkerPool whole(topology, {.num_threads = num_threads});  // a node's part of the threads
    for (int node_idx = 0; node_idx < whole.num_nodes(); ++node_idx) {
      Topology part = topology;
      std::erase_if(part.nodes, [&](const NumaNode& node) {
        return node.os_idx != whole.node_os_idx(node_idx);
      });
      measure(part, whole.node_os_idx(node_idx), whole.workers_in_node(node_idx));
    }
  }
  measure(topology, -1, num_threads);
  return bandwidths;
}

}  // namespace tandem
