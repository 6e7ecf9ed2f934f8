#include "gpu/cuda/core/mla_plan.h"

#include <algorithm>
#include <functional>

#include "runtime/base/check.h"

namespace tandem::gpu::cuda {
namespace {

// Loading a tile's queries and writing its result cost as much as this many keys.
constexpr int64_t kTileCostTokens = 2 * kMlaTileRows;

int32_t ceil_div(int64_t value, int64_t divisor) {
  return static_cast<int32_t>((value + divisor - 1) / divisor);
}

}  // namespace

MlaPlanner::MlaPlanner(const Limits& limits)
    : limits_(limits),
      // A tile has at least one token (the heads divide 64), and the splits beyond one a tile are
      // at most as many as there are blocks: each is as long as all keys over num_blocks.
      max_work_items_(limits.num_blocks + limits.max_batch_tokens),
      next_work_(static_cast<size_t>(limits.num_blocks)) {
  TANDEM_CHECK(limits.num_blocks > 0 && limits.num_attention_heads > 0 &&
                   kMlaTileRows % limits.num_attention_heads == 0,
               "MlaPlanner: blocks and heads");
  work_.reserve(static_cast<size_t>(max_work_items_));
  cost_heap_.reserve(static_cast<size_t>(limits.num_blocks));
}

int32_t MlaPlanner::num_values() const {
  return limits_.num_blocks + 1 + 8 * max_work_items_ + 5 * limits_.num_blocks;
}

int32_t MlaPlanner::num_tiles(const MlaPlanItem& item) const {
  return ceil_div(int64_t{item.num_tokens} * limits_.num_attention_heads, kMlaTileRows);
}

MlaPlanner::Tile MlaPlanner::tile_of(const MlaPlanItem& item, int32_t tile_idx) const {
  const int32_t row_begin = tile_idx * kMlaTileRows;
  const int32_t num_rows =
      std::min(kMlaTileRows, item.num_tokens * limits_.num_attention_heads - row_begin);
  const int32_t last_token = (row_begin + num_rows - 1) / limits_.num_attention_heads;
  return {row_begin, num_rows, item.kv_len - item.num_tokens + last_token + 1};
}

// So many keys a work item that, spread evenly, every block has the same to do: then at most
// num_blocks tiles are longer than that, which is why the merges fit one a block.
int32_t MlaPlanner::split_tokens(std::span<const MlaPlanItem> items) const {
  int64_t total_tokens = 0;
  for (const MlaPlanItem& item : items) {
    for (int32_t tile_idx = 0; tile_idx < num_tiles(item); ++tile_idx) {
      total_tokens += tile_of(item, tile_idx).kv_end;
    }
  }
  const int32_t even_share = std::max(ceil_div(total_tokens, limits_.num_blocks), 1);
  return ceil_div(even_share, kMlaSplitTokens) * kMlaSplitTokens;
}

void MlaPlanner::plan(std::span<const MlaPlanItem> items, std::span<int32_t> values) {
  TANDEM_CHECK(static_cast<int32_t>(values.size()) == num_values(), "MlaPlanner: size of values");
  out_ = arrays(values.data());
  work_.clear();
  num_merges_ = 0;
  num_partial_rows_ = 0;
  cost_heap_.clear();
  for (int32_t block = 0; block < limits_.num_blocks; ++block) cost_heap_.emplace_back(0, block);
  const int32_t max_tokens = split_tokens(items);
  for (size_t item_idx = 0; item_idx < items.size(); ++item_idx) {
    const MlaPlanItem& item = items[item_idx];
    TANDEM_CHECK(item.kv_len >= item.num_tokens, "MlaPlanner: kv_len");
    // The last tiles see most keys and come first, so that the blocks end together.
    for (int32_t tile_idx = num_tiles(item) - 1; tile_idx >= 0; --tile_idx) {
      add_tile(item, static_cast<int32_t>(item_idx), tile_of(item, tile_idx), max_tokens);
    }
  }
  std::fill_n(out_.merge_row_begin + num_merges_, limits_.num_blocks - num_merges_, 0);
  std::fill_n(out_.merge_row_end + num_merges_, limits_.num_blocks - num_merges_, 0);
  std::fill_n(out_.merge_partial_begin + num_merges_, limits_.num_blocks - num_merges_, 0);
  std::fill_n(out_.merge_partial_end + num_merges_, limits_.num_blocks - num_merges_, 0);
  std::fill_n(out_.merge_partial_stride + num_merges_, limits_.num_blocks - num_merges_, 1);

  // Counting sort of the items by block.
  std::fill_n(out_.work_begin, limits_.num_blocks + 1, 0);
  for (const WorkItem& work : work_) ++out_.work_begin[work.block + 1];
  for (int32_t block = 0; block < limits_.num_blocks; ++block) {
    out_.work_begin[block + 1] += out_.work_begin[block];
    next_work_[static_cast<size_t>(block)] = out_.work_begin[block];
  }
  for (const WorkItem& work : work_) {
    const MlaPlanItem& item = items[static_cast<size_t>(work.item_idx)];
    const int32_t idx = next_work_[static_cast<size_t>(work.block)]++;
    out_.q_token_begin[idx] = item.token_begin;
    out_.kv_page_begin[idx] = item.page_begin;
    out_.partial_row_begin[idx] = work.partial_row_begin;
    out_.q_len[idx] = item.num_tokens;
    out_.kv_len[idx] = item.kv_len;
    out_.q_row_begin[idx] = work.q_row_begin;
    out_.kv_begin[idx] = work.kv_begin;
    out_.kv_end[idx] = work.kv_end;
  }
}

void MlaPlanner::add_tile(const MlaPlanItem& item,
                          int32_t item_idx,
                          const Tile& tile,
                          int32_t max_tokens) {
  const int32_t num_splits = ceil_div(tile.kv_end, max_tokens);
  if (num_splits > 1) add_merges(item, tile, num_splits);
  for (int32_t kv_begin = 0; kv_begin < tile.kv_end; kv_begin += max_tokens) {
    const int32_t kv_end = std::min(kv_begin + max_tokens, tile.kv_end);
    TANDEM_CHECK(static_cast<int32_t>(work_.size()) < max_work_items_,
                 "MlaPlanner: too many items");
    work_.push_back({.block = take_cheapest_block(kTileCostTokens + kv_end - kv_begin),
                     .item_idx = item_idx,
                     .q_row_begin = tile.row_begin,
                     .kv_begin = kv_begin,
                     .kv_end = kv_end,
                     .partial_row_begin = num_splits > 1 ? num_partial_rows_ : -1});
    if (num_splits > 1) num_partial_rows_ += tile.num_rows;
  }
  TANDEM_CHECK(num_partial_rows_ <= max_partial_rows(), "MlaPlanner: too many partial rows");
}

// As many blocks merge a tile as its keys are worth, each some of the rows.
void MlaPlanner::add_merges(const MlaPlanItem& item, const Tile& tile, int32_t num_splits) {
  const int32_t num_mergers = std::min(num_splits - 1, tile.num_rows);
  const int32_t rows_each = ceil_div(tile.num_rows, num_mergers);
  const int32_t first_row = item.token_begin * limits_.num_attention_heads + tile.row_begin;
  for (int32_t row = 0; row < tile.num_rows; row += rows_each) {
    TANDEM_CHECK(num_merges_ < limits_.num_blocks, "MlaPlanner: more merges than blocks");
    out_.merge_row_begin[num_merges_] = first_row + row;
    out_.merge_row_end[num_merges_] = first_row + std::min(row + rows_each, tile.num_rows);
    out_.merge_partial_begin[num_merges_] = num_partial_rows_ + row;
    out_.merge_partial_end[num_merges_] = num_partial_rows_ + num_splits * tile.num_rows;
    out_.merge_partial_stride[num_merges_] = tile.num_rows;
    ++num_merges_;
  }
}

int32_t MlaPlanner::take_cheapest_block(int64_t cost) {
  std::pop_heap(cost_heap_.begin(), cost_heap_.end(), std::greater<>());
  const int32_t block = cost_heap_.back().second;
  cost_heap_.back().first += cost;
  std::push_heap(cost_heap_.begin(), cost_heap_.end(), std::greater<>());
  return block;
}

}  // namespace tandem::gpu::cuda
