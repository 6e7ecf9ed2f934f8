// The recorded graphs of a decode step: a step is cut into segments (what lies between two visits
// of the CPU's experts), and each is recorded once per batch size bucket.
#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <utility>

#include "runtime/model/forward_model.h"

namespace tandem::gpu::cuda {

inline constexpr std::array<int32_t, 7> kBatchBuckets = {1, 2, 4, 8, 16, 32, 64};

// Rows of the bucket that holds `batch`, 0 where it has to be run as it is: a step is recorded when
// every item is one token whose logits are asked for and a bucket within `max_rows` holds them.
int32_t decode_bucket(const Batch& batch, int32_t max_rows);

struct SegmentKey {
  int32_t segment_idx = 0;
  int32_t num_rows = 0;  // of the bucket
  auto operator<=>(const SegmentKey&) const = default;
};

// Graph has launch(...). A segment runs as it is the first time, which lets libraries set
// themselves up and autotune outside a recording, is recorded the second time and replayed from
// then on.
template <typename Graph>
class SegmentCache {
 public:
  // `run()` enqueues the segment's work, `record()` returns it as a Graph, `launch(graph)` enqueues
  // that.
  template <typename Run, typename Record, typename Launch>
  void run(const SegmentKey& key, const Run& run, const Record& record, const Launch& launch) {
    const auto [entry, is_new] = graphs_.try_emplace(key);
    if (is_new) {
      run();
      return;
    }
    Entry& segment = entry->second;
    if (!segment.is_recorded) {
      segment.graph = record();
      segment.is_recorded = true;
    }
    launch(std::as_const(segment.graph));
  }

  [[nodiscard]] bool is_recorded(const SegmentKey& key) const {
    const auto entry = graphs_.find(key);
    return entry != graphs_.end() && entry->second.is_recorded;
  }

 private:
  struct Entry {
    Graph graph{};
    bool is_recorded = false;
  };
  std::map<SegmentKey, Entry> graphs_;
};

}  // namespace tandem::gpu::cuda
