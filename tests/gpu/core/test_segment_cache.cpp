#include "gpu/cuda/core/segment_cache.h"

#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace tandem::gpu::cuda {
namespace {

struct Step {
  // One item for each number of tokens; logits of every item's last token.
  explicit Step(const std::vector<int32_t>& num_tokens) {
    for (const int32_t num : num_tokens) {
      items.push_back({.token_begin = static_cast<int32_t>(token_ids.size()),
                       .num_tokens = num,
                       .context_size_tokens = 3,
                       .page_ids = {}});
      token_ids.resize(token_ids.size() + static_cast<size_t>(num));
      logit_token_idx.push_back(static_cast<int32_t>(token_ids.size()) - 1);
    }
  }
  [[nodiscard]] Batch batch() const { return {token_ids, items, logit_token_idx}; }
  std::vector<int32_t> token_ids;
  std::vector<BatchItem> items;
  std::vector<int32_t> logit_token_idx;
};

Step decode_of(size_t num_sequences) { return Step(std::vector<int32_t>(num_sequences, 1)); }

TEST_CASE("a decode step goes into the smallest bucket that holds it", "[gpu_core]") {
  const std::vector<std::pair<size_t, int32_t>> cases = {
      {1, 1}, {2, 2}, {3, 4}, {4, 4}, {5, 8}, {9, 16}, {17, 32}, {33, 64}, {64, 64}, {65, 0}};
  for (const auto& [num_sequences, bucket] : cases) {
    INFO(num_sequences);
    CHECK(decode_bucket(decode_of(num_sequences).batch(), 64) == bucket);
  }
}

TEST_CASE("a bucket larger than the buffers is not used", "[gpu_core]") {
  CHECK(decode_bucket(decode_of(5).batch(), 7) == 0);
  CHECK(decode_bucket(decode_of(5).batch(), 8) == 8);
}

TEST_CASE("a step with prefill, or without all logits, is run as it is", "[gpu_core]") {
  CHECK(decode_bucket(Step({1, 2, 1}).batch(), 64) == 0);
  Step step = decode_of(2);
  step.logit_token_idx.pop_back();
  CHECK(decode_bucket(step.batch(), 64) == 0);
}

// What a graph of the log would be.
struct Recorder {
  SegmentCache<std::string> cache;
  std::string log;
  bool fails = false;
  void run(const SegmentKey& key) {
    const std::string name = std::to_string(key.segment_idx) + "x" + std::to_string(key.num_rows);
    cache.run(
        key, [&] { log += "run" + name + " "; },
        [&] {
          if (fails) throw std::runtime_error("recording failed");
          log += "record" + name + " ";
          return "graph" + name;
        },
        [&](const std::string& graph) { log += graph + " "; });
  }
};

TEST_CASE("a segment runs, is recorded, and then replayed, for each bucket by itself",
          "[gpu_core]") {
  Recorder recorder;
  for (int step = 0; step < 3; ++step) recorder.run({.segment_idx = 5, .num_rows = 2});
  CHECK(recorder.log == "run5x2 record5x2 graph5x2 graph5x2 ");
  recorder.log.clear();
  recorder.run({.segment_idx = 5, .num_rows = 4});
  recorder.run({.segment_idx = 6, .num_rows = 2});
  recorder.run({.segment_idx = 5, .num_rows = 2});
  CHECK(recorder.log == "run5x4 run6x2 graph5x2 ");
}

TEST_CASE("a recording that fails is tried again", "[gpu_core]") {
  Recorder recorder;
  recorder.run({.segment_idx = 0, .num_rows = 1});
  recorder.fails = true;
  CHECK_THROWS_AS(recorder.run({.segment_idx = 0, .num_rows = 1}), std::runtime_error);
  recorder.fails = false;
  recorder.log.clear();
  recorder.run({.segment_idx = 0, .num_rows = 1});
  CHECK(recorder.log == "record0x1 graph0x1 ");
}

}  // namespace
}  // namespace tandem::gpu::cuda
