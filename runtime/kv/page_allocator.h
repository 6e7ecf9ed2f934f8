// Owns the numbers 0 .. num_pages-1: which page is free, how many sequences hold the others.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem {

class PageAllocator {
 public:
  explicit PageAllocator(int32_t num_pages);

  // A free page, now held once; -1 when none is free.
  int32_t allocate();
  // One more holder. The page may have none (kept for its contents), but is not free.
  void retain(int32_t page_id);
  // One holder less; true when that was the last: the caller frees the page or keeps it.
  bool release(int32_t page_id);
  void free(int32_t page_id);  // of a page that nobody holds

  [[nodiscard]] int32_t num_pages() const { return static_cast<int32_t>(ref_counts_.size()); }
  [[nodiscard]] int32_t num_free() const { return static_cast<int32_t>(free_page_ids_.size()); }
  [[nodiscard]] int32_t ref_count(int32_t page_id) const;  // -1: free

 private:
  std::vector<int32_t> ref_counts_;     // [num_pages], -1: free
  std::vector<int32_t> free_page_ids_;  // a stack: the page freed last is the warmest
};

}  // namespace tandem
