// Records the segments of decode steps as they are asked for, operation by operation, and replays
// them: a step of as many rows asks for the same operations in the same order (gpu/ops.h), so that
// from the third on nothing but the graph has to be enqueued.
#pragma once

#include <cstdint>
#include <functional>
#include <utility>
#include <vector>

#include "gpu/cuda/core/segment_cache.h"

namespace tandem::gpu::cuda {

template <typename Graph>
class Recorder {
 public:
  // num_rows of the bucket of a decode step, 0 for a step that is run as it is.
  void begin_step(int32_t num_rows) {
    key_ = {.segment_idx = 0, .num_rows = num_rows};
    work_.clear();
    has_work_ = false;
  }

  // `operation()` enqueues work; it is called now, at the end of the segment, or, in a segment that
  // is replayed, not at all.
  template <typename Operation>
  void enqueue(const Operation& operation) {
    has_work_ = true;
    if (key_.num_rows == 0) {
      operation();
    } else if (!segments_.is_recorded(key_)) {
      work_.emplace_back(operation);
    }
  }

  // Ends the segment. `capture(work)` makes a graph of what work() enqueues, `launch(graph)`
  // enqueues that.
  template <typename Capture, typename Launch>
  void end_segment(const Capture& capture, const Launch& launch) {
    if (!has_work_) return;
    if (key_.num_rows > 0) {
      const auto run_all = [this] {
        for (const std::function<void()>& operation : work_) operation();
      };
      segments_.run(
          key_, run_all, [&] { return capture(run_all); }, launch);
    }
    work_.clear();
    has_work_ = false;
    ++key_.segment_idx;
  }

 private:
  SegmentCache<Graph> segments_;
  SegmentKey key_;
  std::vector<std::function<void()>> work_;  // of the segment, until it is recorded
  bool has_work_ = false;
};

}  // namespace tandem::gpu::cuda
