// A node's units of work, taken by its workers as they come free: a worker that has lost its core
// to another process holds up what it has taken, not its whole share.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

namespace tandem::cpu_experts {

// [begin, end) of a number of units.
struct Share {
  int64_t begin = 0, end = 0;
  [[nodiscard]] int64_t size() const { return end - begin; }
};

// The one of `part_idx` among `num_parts`.
inline Share share_of(int64_t num_units, int64_t part_idx, int64_t num_parts) {
  return {num_units * part_idx / num_parts, num_units * (part_idx + 1) / num_parts};
}

// Large shares first, small ones at the end: few claims, yet all finish together.
class UnitQueue {
 public:
  // Before any worker takes: units come in runs of `min_units` or a multiple of it, which never
  // cross a multiple of `run_units`.
  void reset(int64_t num_units, int64_t run_units, int64_t min_units, int num_workers) {
    num_units_ = num_units;
    run_units_ = run_units;
    min_units_ = min_units;
    num_workers_ = num_workers;
    next_.store(0, std::memory_order_relaxed);
  }

  // Each unit once, by any number of threads at once. Empty when there are none left.
  Share take() {
    int64_t begin = next_.load(std::memory_order_relaxed);
    int64_t end = begin;
    do {
      if (begin >= num_units_) return {};
      const int64_t fair = (num_units_ - begin) / (2 * num_workers_);
      const int64_t run = std::max<int64_t>(fair / min_units_, 1) * min_units_;
      end = std::min({begin + run, (begin / run_units_ + 1) * run_units_, num_units_});
    } while (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed));
    return {begin, end};
  }

 private:
  alignas(64) std::atomic<int64_t> next_{0};
  int64_t num_units_ = 0;
  int64_t run_units_ = 1;
  int64_t min_units_ = 1;
  int num_workers_ = 1;
};

}  // namespace tandem::cpu_experts
