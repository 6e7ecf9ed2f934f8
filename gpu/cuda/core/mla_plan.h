// How absorbed MLA attention is spread over the multiprocessors of a card, decided on the host once
// a step: work items (64 rows of queries against a range of keys) for a fixed grid of blocks that
// each run their items in order, and who then merges which partial results. The arrays are what
// FlashInfer's MLA kernels read (gpu/cuda/flashinfer/mla_decode.h); that library's own planner
// allocates, asks the device and changes the grid with the batch, none of which a captured step
// can have.
//
// A row is a (token, head) pair of one sequence: row = token * num_attention_heads + head.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace tandem::gpu::cuda {

inline constexpr int32_t kMlaTileRows = 64;
// Keys are split at multiples of a page.
inline constexpr int32_t kMlaSplitTokens = 64;

// One sequence's part of a step.
struct MlaPlanItem {
  int32_t token_begin = 0;  // its first token in the batch
  int32_t num_tokens = 0;
  int32_t kv_len = 0;      // keys, the new tokens included
  int32_t page_begin = 0;  // its first entry in the step's page ids
};

// Places in one buffer of int32; T is int32_t on the host, const int32_t for the kernels.
template <typename T>
struct MlaPlanArrays {
  T* work_begin =
      nullptr;  // [num_blocks + 1] a block's items are [work_begin[b], work_begin[b + 1])
  // [max_work_items] each:
  T* q_token_begin = nullptr;      // first token of the sequence in the batch
  T* kv_page_begin = nullptr;      // first entry of the sequence in page_ids
  T* partial_row_begin = nullptr;  // where its rows of partial results begin; -1: results are final
  T* q_len = nullptr;              // tokens of the sequence in this step
  T* kv_len = nullptr;             // keys of the sequence
  T* q_row_begin = nullptr;        // first row of the tile, a multiple of 64
  T* kv_begin = nullptr;           // range of keys, a multiple of 64
  T* kv_end = nullptr;
  // [num_blocks] each: block b merges, for row idx of [merge_row_begin, merge_row_end) counted from
  // the batch's first token, the partial rows merge_partial_begin + (idx - merge_row_begin) +
  // n * merge_partial_stride below merge_partial_end.
  T* merge_row_begin = nullptr;
  T* merge_row_end = nullptr;
  T* merge_partial_begin = nullptr;
  T* merge_partial_end = nullptr;
  T* merge_partial_stride = nullptr;
};

class MlaPlanner {
 public:
  struct Limits {
    int32_t num_blocks = 0;           // blocks of the grid: the card's multiprocessors
    int32_t num_attention_heads = 0;  // divides 64
    int32_t max_batch_tokens = 0;
  };
  explicit MlaPlanner(const Limits& limits);

  [[nodiscard]] int32_t num_values() const;  // int32 values of the arrays
  [[nodiscard]] int32_t max_partial_rows() const { return 2 * limits_.num_blocks * kMlaTileRows; }
  template <typename T>
  [[nodiscard]] MlaPlanArrays<T> arrays(T* values) const {
    MlaPlanArrays<T> result;
    place(values, limits_.num_blocks + 1, result.work_begin);
    place(values, max_work_items_, result.q_token_begin, result.kv_page_begin,
          result.partial_row_begin, result.q_len, result.kv_len, result.q_row_begin,
          result.kv_begin, result.kv_end);
    place(values, limits_.num_blocks, result.merge_row_begin, result.merge_row_end,
          result.merge_partial_begin, result.merge_partial_end, result.merge_partial_stride);
    return result;
  }

  // Fills the arrays in `values` [num_values()]. Allocates nothing. Items without tokens are left
  // out; kv_len >= num_tokens.
  void plan(std::span<const MlaPlanItem> items, std::span<int32_t> values);

 private:
  struct WorkItem {
    int32_t block;
    int32_t item_idx;
    int32_t q_row_begin;
    int32_t kv_begin;
    int32_t kv_end;
    int32_t partial_row_begin;
  };
  // A tile's rows and the keys that its last row sees.
  struct Tile {
    int32_t row_begin;
    int32_t num_rows;
    int32_t kv_end;
  };
  [[nodiscard]] int32_t num_tiles(const MlaPlanItem& item) const;
  [[nodiscard]] Tile tile_of(const MlaPlanItem& item, int32_t tile_idx) const;
  [[nodiscard]] int32_t split_tokens(std::span<const MlaPlanItem> items) const;
  void add_tile(const MlaPlanItem& item, int32_t item_idx, const Tile& tile, int32_t max_tokens);
  void add_merges(const MlaPlanItem& item, const Tile& tile, int32_t num_splits);
  [[nodiscard]] int32_t take_cheapest_block(int64_t cost);

  template <typename T, typename... Pointers>
  static void place(T*& values, int32_t num, Pointers*&... pointers) {
    ((pointers = std::exchange(values, values + num)), ...);
  }

  Limits limits_;
  int32_t max_work_items_;
  std::vector<WorkItem> work_;                          // of the plan in the making
  std::vector<std::pair<int64_t, int32_t>> cost_heap_;  // (cost so far, block), cheapest on top
  std::vector<int32_t> next_work_;                      // [num_blocks]
  MlaPlanArrays<int32_t> out_;
  int32_t num_merges_ = 0;
  int32_t num_partial_rows_ = 0;
};

}  // namespace tandem::gpu::cuda
