#include "gpu/cuda/core/mla_schedule.h"

#include <algorithm>

namespace tandem::gpu::cuda {
namespace {

constexpr int32_t kPageSizeTokens = 64;

int32_t ceil_div(int64_t a, int64_t b) { return static_cast<int32_t>((a + b - 1) / b); }

int32_t num_splits_of(int32_t num_pages) {
  return ceil_div(num_pages, split_size_pages(num_pages));
}

int32_t max_splits(int32_t max_context_tokens) {
  return std::min(ceil_div(ceil_div(max_context_tokens, kPageSizeTokens), kMinSplitPages),
                  kMaxSplits);
}

// A tile never spans items, so that an item of one token may leave most of its tile empty.
int64_t max_tiles(int32_t num_tokens, int32_t num_heads, int32_t rows_a_tile) {
  return int64_t{num_tokens} * ceil_div(num_heads, rows_a_tile);
}

}  // namespace

int64_t max_mla_slots(int32_t num_split_tokens,
                      int32_t num_heads,
                      int32_t rows_a_tile,
                      int32_t max_context_tokens) {
  return max_tiles(num_split_tokens, num_heads, rows_a_tile) * max_splits(max_context_tokens);
}

int64_t max_mla_work(int32_t max_tokens,
                     int32_t num_split_tokens,
                     int32_t num_heads,
                     int32_t rows_a_tile,
                     int32_t max_context_tokens) {
  return max_tiles(max_tokens, num_heads, rows_a_tile) +
         max_mla_slots(num_split_tokens, num_heads, rows_a_tile, max_context_tokens);
}

void build_mla_schedule(std::span<const MlaScheduleItem> items,
                        int32_t num_heads,
                        int32_t rows_a_tile,
                        int64_t max_slots,
                        MlaSchedule& schedule) {
  schedule.work.clear();
  schedule.tokens.clear();
  schedule.num_slots = 0;
  int32_t row_begin = 0;
  for (int32_t item_idx = 0; item_idx < static_cast<int32_t>(items.size()); ++item_idx) {
    const MlaScheduleItem& item = items[static_cast<size_t>(item_idx)];
    const int32_t num_rows = item.num_tokens * num_heads;
    const int32_t num_tiles = ceil_div(num_rows, rows_a_tile);
    const int32_t num_pages = ceil_div(item.context_size_tokens + item.num_tokens, kPageSizeTokens);
    int32_t num_splits = item.num_tokens <= kMaxSplitTokens ? num_splits_of(num_pages) : 1;
    if (schedule.num_slots + int64_t{num_tiles} * num_splits > max_slots) num_splits = 1;
    const int32_t split_size =
        (num_splits == 1 ? num_pages : split_size_pages(num_pages)) * kPageSizeTokens;
    // The last tile sees most keys: first come, so that the grid ends together.
    for (int32_t tile = num_tiles - 1; tile >= 0; --tile) {
      const int32_t tile_begin = tile * rows_a_tile;
      const int32_t tile_rows = std::min(rows_a_tile, num_rows - tile_begin);
      const int32_t last_token = (tile_begin + tile_rows - 1) / num_heads;
      const int32_t num_keys = item.context_size_tokens + last_token + 1;
      for (int32_t split = 0; split < num_splits; ++split) {
        schedule.work.push_back(
            {.item_idx = item_idx,
             .row_begin = row_begin + tile_begin,
             .num_rows = tile_rows,
             .key_begin = split * split_size,
             .key_end = std::max(split * split_size, std::min((split + 1) * split_size, num_keys)),
             .slot = num_splits == 1 ? -1 : schedule.num_slots + tile * num_splits + split});
      }
    }
    schedule.tokens.insert(schedule.tokens.end(), static_cast<size_t>(item.num_tokens),
                           {.num_splits = num_splits == 1 ? 0 : num_splits,
                            .slot_begin = schedule.num_slots,
                            .item_row_begin = row_begin});
    if (num_splits > 1) schedule.num_slots += num_tiles * num_splits;
    row_begin += num_rows;
  }
}

}  // namespace tandem::gpu::cuda
