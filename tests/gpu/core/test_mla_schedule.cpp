#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <map>

#include "gpu/cuda/core/mla_schedule.h"

namespace tandem::gpu::cuda {
namespace {

constexpr int64_t kPlenty = int64_t{1} << 40;

TEST_CASE("a schedule gives every row its keys exactly once", "[gpu_core]") {
  const int32_t num_heads = GENERATE(1, 3, 16, 64, 65);
  const int32_t rows_a_tile = GENERATE(16, 64);
  const std::vector<MlaScheduleItem> items{{1, 0},   {1, 63},  {2, 255},     {8, 256},
                                           {9, 256}, {70, 10}, {1, 262'143}, {3, 40'000}};
  MlaSchedule schedule;
  build_mla_schedule(items, num_heads, rows_a_tile, kPlenty, schedule);
  std::map<int32_t, std::vector<std::pair<int32_t, int32_t>>> keys_of_row;
  std::vector<int> num_uses(static_cast<size_t>(schedule.num_slots), 0);
  for (const MlaWork& work : schedule.work) {
    CHECK((work.num_rows > 0 && work.num_rows <= rows_a_tile));
    CHECK((work.key_begin % 64 == 0 && work.key_begin <= work.key_end));
    for (int32_t row = 0; row < work.num_rows; ++row)
      keys_of_row[work.row_begin + row].emplace_back(work.key_begin, work.key_end);
    if (work.slot >= 0) ++num_uses[static_cast<size_t>(work.slot)];
  }
  CHECK(std::all_of(num_uses.begin(), num_uses.end(), [](int num) { return num == 1; }));

  int32_t token = 0;
  int32_t item_row_begin = 0;
  for (const MlaScheduleItem& item : items) {
    for (int32_t idx = 0; idx < item.num_tokens; ++idx, ++token) {
      const MlaTokenSplits& splits = schedule.tokens[static_cast<size_t>(token)];
      CHECK((splits.num_splits == 0 || item.num_tokens <= kMaxSplitTokens));
      CHECK((splits.num_splits == 0 || splits.item_row_begin == item_row_begin));
      for (int32_t head = 0; head < num_heads; ++head) {
        auto& keys = keys_of_row.at(token * num_heads + head);
        std::sort(keys.begin(), keys.end());
        CHECK(static_cast<int32_t>(keys.size()) == std::max(1, splits.num_splits));
        int32_t end = 0;
        for (const auto& [key_begin, key_end] : keys) {
          CHECK((key_begin == end || key_begin == key_end));
          end = std::max(end, key_end);
        }
        // Of its tile's last token, so at least its own.
        CHECK(end >= item.context_size_tokens + idx + 1);
        CHECK(end <= item.context_size_tokens + item.num_tokens);
      }
    }
    item_row_begin += item.num_tokens * num_heads;
  }
  CHECK(token == static_cast<int32_t>(schedule.tokens.size()));
}

TEST_CASE("a token finds its partial results where the work leaves them", "[gpu_core]") {
  const int32_t num_heads = GENERATE(4, 64, 100);
  const int32_t rows_a_tile = GENERATE(16, 64);
  MlaSchedule schedule;
  build_mla_schedule(std::vector<MlaScheduleItem>{{2, 700}, {1, 10}, {5, 1000}}, num_heads,
                     rows_a_tile, kPlenty, schedule);
  for (const MlaWork& work : schedule.work) {
    if (work.slot < 0) continue;
    const MlaTokenSplits& splits = schedule.tokens[static_cast<size_t>(work.row_begin / num_heads)];
    const int32_t tile = (work.row_begin - splits.item_row_begin) / rows_a_tile;
    const int32_t split = work.slot - splits.slot_begin - tile * splits.num_splits;
    CHECK((split >= 0 && split < splits.num_splits));
    CHECK((work.row_begin - splits.item_row_begin) % rows_a_tile == 0);
  }
}

TEST_CASE("a token's split does not depend on the rest of the batch", "[gpu_core]") {
  MlaSchedule alone;
  MlaSchedule together;
  build_mla_schedule(std::vector<MlaScheduleItem>{{1, 5000}}, 64, 64, kPlenty, alone);
  build_mla_schedule(std::vector<MlaScheduleItem>{{1, 100'000}, {30, 0}, {1, 5000}}, 64, 64,
                     kPlenty, together);
  const size_t num_splits = alone.work.size();
  CHECK(num_splits == 20);
  for (size_t idx = 0; idx < num_splits; ++idx) {
    const MlaWork& work = together.work[together.work.size() - num_splits + idx];
    CHECK(work.key_begin == alone.work[idx].key_begin);
    CHECK(work.key_end == alone.work[idx].key_end);
  }
}

TEST_CASE("the promised sizes suffice for every batch, and lack of slots means no split",
          "[gpu_core]") {
  const int32_t num_heads = GENERATE(4, 20, 64);
  const int32_t rows_a_tile = GENERATE(16, 64);
  const int32_t max_context = 8192;
  const int64_t max_slots = max_mla_slots(16, num_heads, rows_a_tile, max_context);
  for (const int32_t num_tokens : {1, 2, 4, 8}) {
    for (const int32_t context : {0, 200, 1000, max_context - 8}) {
      std::vector<MlaScheduleItem> items(static_cast<size_t>(16 / num_tokens),
                                         {num_tokens, context});
      items.push_back({100, 0});
      MlaSchedule schedule;
      build_mla_schedule(items, num_heads, rows_a_tile, kPlenty, schedule);
      CHECK(schedule.num_slots <= max_slots);
      CHECK(static_cast<int64_t>(schedule.work.size()) <=
            max_mla_work(116, 16, num_heads, rows_a_tile, max_context));
      build_mla_schedule(items, num_heads, rows_a_tile, 0, schedule);
      CHECK(schedule.num_slots == 0);
      CHECK(std::all_of(schedule.work.begin(), schedule.work.end(),
                        [](const MlaWork& work) { return work.slot == -1; }));
    }
  }
}

TEST_CASE("no context is cut into more pieces than the sum of partial results holds",
          "[gpu_core]") {
  for (int32_t num_pages = 1; num_pages < 20'000; num_pages += 7) {
    const int32_t size = split_size_pages(num_pages);
    CHECK((size >= kMinSplitPages && (num_pages + size - 1) / size <= kMaxSplits));
  }
}

}  // namespace
}  // namespace tandem::gpu::cuda
