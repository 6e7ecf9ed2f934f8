// Who computes what in a step of MLA decode: queries in tiles of rows, long contexts split over
// CTAs, a list of equal pieces of work that a fixed grid walks through.
//
// A row is a query token's head: row = token * num_heads + head, over all tokens of the batch. A
// tile is up to rows_a_tile neighbouring rows of one item. The split of a token's keys follows from
// its item alone, so that what else is in the batch changes no bit of its result.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::gpu::cuda {

// Keys [key_begin, key_end) of a tile. Rows see keys up to their own position only.
struct MlaWork {
  int32_t item_idx = 0;   // row of the page table
  int32_t row_begin = 0;  // of the tile
  int32_t num_rows = 0;
  int32_t key_begin = 0;  // multiple of 64
  int32_t key_end = 0;
  int32_t slot = -1;  // where the partial result goes; -1: it is the whole result
};

// Of one token, for the sum of its partial results: row r of it lies in slot
//   slot_begin + ((r - item_row_begin) / rows_a_tile) * num_splits + split.
struct MlaTokenSplits {
  int32_t num_splits = 0;  // 0: nothing to sum up
  int32_t slot_begin = 0;
  int32_t item_row_begin = 0;
};

struct MlaScheduleItem {
  int32_t num_tokens = 0;
  int32_t context_size_tokens = 0;  // before them
};

struct MlaSchedule {
  std::vector<MlaWork> work;
  std::vector<MlaTokenSplits> tokens;  // one a token of the batch
  int32_t num_slots = 0;
};

// Items of more tokens than this fill the card without splits.
inline constexpr int32_t kMaxSplitTokens = 8;
inline constexpr int32_t kMinSplitPages = 4;
inline constexpr int32_t kMaxSplits = 128;

// Pages of 64 keys that one CTA walks of a context of `num_pages`.
constexpr int32_t split_size_pages(int32_t num_pages) {
  const int32_t size = (num_pages + kMaxSplits - 1) / kMaxSplits;
  return size > kMinSplitPages ? size : kMinSplitPages;
}

// Slots that suffice for any batch of at most `num_split_tokens` tokens in items of at most
// kMaxSplitTokens, each with a context of at most `max_context_tokens`.
int64_t max_mla_slots(int32_t num_split_tokens,
                      int32_t num_heads,
                      int32_t rows_a_tile,
                      int32_t max_context_tokens);
// Pieces of work that suffice for any batch of at most `max_tokens` tokens.
int64_t max_mla_work(int32_t max_tokens,
                     int32_t num_split_tokens,
                     int32_t num_heads,
                     int32_t rows_a_tile,
                     int32_t max_context_tokens);

// Fills `schedule`, whose vectors keep their capacity. `max_slots` as from max_mla_slots; an item
// for which no slots are left is not split.
void build_mla_schedule(std::span<const MlaScheduleItem> items,
                        int32_t num_heads,
                        int32_t rows_a_tile,
                        int64_t max_slots,
                        MlaSchedule& schedule);

}  // namespace tandem::gpu::cuda
