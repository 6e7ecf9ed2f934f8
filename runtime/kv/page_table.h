// The pages of one sequence, in the order of its tokens.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kv/prefix_cache.h"

namespace tandem {

[[nodiscard]] int32_t num_pages_for(int64_t num_tokens);

// Holds what it names; release() must come before destruction.
class PageTable {
 public:
  PageTable() = default;
  ~PageTable();
  PageTable(const PageTable&) = delete;
  PageTable& operator=(const PageTable&) = delete;

  // Of an empty table: takes the longest run of known pages of `hashes`. Returns how many.
  int32_t acquire_prefix(PrefixCache& cache, std::span<const PageHash> hashes);
  // Room for `num_tokens` in all; false, and nothing taken, when too few pages are available.
  bool extend_to(PrefixCache& cache, int64_t num_tokens);
  // The first hashes.size() pages are full: makes known those that are not.
  void remember_full_pages(PrefixCache& cache, std::span<const PageHash> hashes);
  // The last page goes first, so that a prefix is forgotten from its end.
  void release(PrefixCache& cache);

  [[nodiscard]] std::span<const int32_t> page_ids() const { return page_ids_; }
  [[nodiscard]] int32_t num_pages() const { return static_cast<int32_t>(page_ids_.size()); }

 private:
  std::vector<int32_t> page_ids_;
  int32_t num_remembered_ = 0;  // leading pages already offered to the cache
};

}  // namespace tandem
