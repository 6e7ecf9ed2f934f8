#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <map>
#include <random>
#include <vector>

#include "gpu/cuda/core/mla_plan.h"

namespace tandem::gpu::cuda {
namespace {

// A batch whose scores and values are numbers made of the place, so that attention can be done
// exactly: along the arrays of a plan as the kernels walk them, and directly.
struct PlannedBatch {
  explicit PlannedBatch(const MlaPlanner::Limits& limits_in)
      : limits(limits_in),
        planner(limits),
        values(static_cast<size_t>(planner.num_values()), int32_t{-7}),
        plan(planner.arrays<const int32_t>(values.data())) {}

  void add(int32_t num_tokens, int32_t kv_len) {
    items.push_back({.token_begin = num_batch_tokens,
                     .num_tokens = num_tokens,
                     .kv_len = kv_len,
                     .page_begin = num_pages});
    num_batch_tokens += num_tokens;
    num_pages += (kv_len + 63) / 64;
  }
  void make_plan() { planner.plan(items, values); }

  MlaPlanner::Limits limits;
  MlaPlanner planner;
  std::vector<int32_t> values;
  MlaPlanArrays<const int32_t> plan;
  std::vector<MlaPlanItem> items;
  int32_t num_batch_tokens = 0;
  int32_t num_pages = 0;
};

double score_at(int64_t row, int64_t key_slot) {
  return std::sin(static_cast<double>(row * 31 + key_slot * 17));
}
double value_at(int64_t key_slot) { return static_cast<double>(key_slot % 1009); }

struct Partial {
  double weight = 0.0;  // sum of exp(score)
  double sum = 0.0;     // sum of exp(score) * value
  void add(const Partial& other) {
    weight += other.weight;
    sum += other.sum;
  }
};

// Row r of the batch (token * heads + head) over the item's keys up to its own position.
Partial direct(const PlannedBatch& batch, const MlaPlanItem& item, int32_t item_row) {
  const int32_t heads = batch.limits.num_attention_heads;
  const int32_t last_key = item.kv_len - item.num_tokens + item_row / heads;
  Partial result;
  for (int32_t key = 0; key <= last_key; ++key) {
    const int64_t slot = int64_t{item.page_begin} * 64 + key;
    const double weight = std::exp(score_at(int64_t{item.token_begin} * heads + item_row, slot));
    result.add({weight, weight * value_at(slot)});
  }
  return result;
}

// What FlashInfer's kernels do with the arrays: work items in order, each at most 64 rows, causal
// mask from q_len and kv_len; then the merges.
std::map<int64_t, Partial> walk(const PlannedBatch& batch) {
  const MlaPlanArrays<const int32_t>& plan = batch.plan;
  const int32_t heads = batch.limits.num_attention_heads;
  std::map<int64_t, Partial> results;
  std::map<int64_t, Partial> partials;
  const auto write = [](std::map<int64_t, Partial>& rows, int64_t row, const Partial& partial) {
    const bool is_first = rows.emplace(row, partial).second;
    INFO("row " << row);
    REQUIRE(is_first);  // no row is written twice
  };
  REQUIRE(plan.work_begin[0] == 0);
  for (int32_t block = 0; block < batch.limits.num_blocks; ++block) {
    for (int32_t work = plan.work_begin[block]; work < plan.work_begin[block + 1]; ++work) {
      REQUIRE(plan.kv_begin[work] % 64 == 0);
      REQUIRE(plan.kv_begin[work] < plan.kv_end[work]);
      REQUIRE(plan.kv_end[work] <= plan.kv_len[work]);
      for (int32_t tile_row = 0; tile_row < 64; ++tile_row) {
        const int32_t row = plan.q_row_begin[work] + tile_row;
        const int32_t token = row / heads;
        if (token >= plan.q_len[work]) break;
        const int64_t batch_row = int64_t{plan.q_token_begin[work]} * heads + row;
        Partial partial;
        for (int32_t key = plan.kv_begin[work]; key < plan.kv_end[work]; ++key) {
          if (key + plan.q_len[work] > plan.kv_len[work] + token) break;
          const int64_t slot = int64_t{plan.kv_page_begin[work]} * 64 + key;
          const double weight = std::exp(score_at(batch_row, slot));
          partial.add({weight, weight * value_at(slot)});
        }
        if (plan.partial_row_begin[work] < 0) {
          write(results, batch_row, partial);
        } else {
          write(partials, plan.partial_row_begin[work] + tile_row, partial);
        }
      }
    }
  }
  for (const auto& [row, partial] : partials) REQUIRE(row < batch.planner.max_partial_rows());
  for (int32_t block = 0; block < batch.limits.num_blocks; ++block) {
    for (int32_t row = plan.merge_row_begin[block]; row < plan.merge_row_end[block]; ++row) {
      Partial merged;
      for (int32_t partial_row =
               plan.merge_partial_begin[block] + row - plan.merge_row_begin[block];
           partial_row < plan.merge_partial_end[block];
           partial_row += plan.merge_partial_stride[block]) {
        REQUIRE(partials.count(partial_row) == 1);
        merged.add(partials[partial_row]);
      }
      write(results, row, merged);
    }
  }
  return results;
}

void check(PlannedBatch& batch) {
  batch.make_plan();
  const std::map<int64_t, Partial> results = walk(batch);
  const int32_t heads = batch.limits.num_attention_heads;
  REQUIRE(static_cast<int64_t>(results.size()) == int64_t{batch.num_batch_tokens} * heads);
  int64_t num_wrong = 0;
  for (const MlaPlanItem& item : batch.items) {
    for (int32_t row = 0; row < item.num_tokens * heads; row += 13) {
      const Partial expected = direct(batch, item, row);
      const Partial& actual = results.at(int64_t{item.token_begin} * heads + row);
      num_wrong += !(std::abs(actual.weight - expected.weight) <= 1e-9 * expected.weight &&
                     std::abs(actual.sum - expected.sum) <= 1e-9 * (expected.sum + 1.0));
    }
  }
  CHECK(num_wrong == 0);
}

}  // namespace

TEST_CASE("a plan computes every row once from all its keys, whatever the batch", "[gpu][host]") {
  std::mt19937 random(5);
  const auto below = [&](uint32_t limit) { return static_cast<int32_t>(random() % limit); };
  for (const int32_t heads : {1, 4, 16, 64}) {
    for (const int32_t num_blocks : {1, 2, 13, 132}) {
      PlannedBatch batch(
          {.num_blocks = num_blocks, .num_attention_heads = heads, .max_batch_tokens = 96});
      for (int repeat = 0; repeat < 6; ++repeat) {  // the planner is used again and again
        INFO("heads " << heads << ", blocks " << num_blocks << ", repeat " << repeat);
        batch.items.clear();
        batch.num_batch_tokens = 0;
        batch.num_pages = 0;
        while (batch.num_batch_tokens < 60) {
          const int32_t num_tokens = below(4) == 0 ? below(30) : below(3);
          batch.add(num_tokens, num_tokens + below(repeat % 2 == 0 ? 2000 : 130));
        }
        check(batch);
      }
    }
  }
}

TEST_CASE("a lone long sequence keeps every block busy with the same work", "[gpu][host]") {
  PlannedBatch batch({.num_blocks = 132, .num_attention_heads = 64, .max_batch_tokens = 64});
  batch.add(1, 65536);
  batch.make_plan();
  int32_t num_busy = 0;
  for (int32_t block = 0; block < 132; ++block) {
    const int32_t num_work = batch.plan.work_begin[block + 1] - batch.plan.work_begin[block];
    REQUIRE(num_work <= 1);
    num_busy += num_work;
  }
  CHECK(num_busy == 128);  // splits of 512 keys
  check(batch);
}

TEST_CASE("a plan of the largest batch fits its arrays", "[gpu][host]") {
  for (const int32_t heads : {1, 16, 64}) {
    PlannedBatch batch({.num_blocks = 148, .num_attention_heads = heads, .max_batch_tokens = 512});
    for (int32_t idx = 0; idx < 512; ++idx) batch.add(1, 1 + idx * 37 % 5000);
    batch.make_plan();
    CHECK(batch.plan.work_begin[148] >= 512);
    PlannedBatch prefill(
        {.num_blocks = 148, .num_attention_heads = heads, .max_batch_tokens = 512});
    prefill.add(512, 262'144);
    prefill.make_plan();
    CHECK(prefill.plan.work_begin[148] >= 512 * heads / 64);
  }
}

}  // namespace tandem::gpu::cuda
