#include "runtime/kv/page_allocator.h"

#include <cstddef>

#include "runtime/base/check.h"

namespace tandem {
namespace {
constexpr int32_t kFree = -1;
}

PageAllocator::PageAllocator(int32_t num_pages) {
  TANDEM_CHECK(num_pages >= 0, "a number of pages is not negative");
  ref_counts_.assign(static_cast<size_t>(num_pages), kFree);
  free_page_ids_.reserve(ref_counts_.size());
  for (int32_t page_id = num_pages - 1; page_id >= 0; --page_id) free_page_ids_.push_back(page_id);
}

int32_t PageAllocator::allocate() {
  if (free_page_ids_.empty()) return -1;
  const int32_t page_id = free_page_ids_.back();
  free_page_ids_.pop_back();
  ref_counts_[page_id] = 1;
  return page_id;
}

void PageAllocator::retain(int32_t page_id) {
  TANDEM_CHECK(ref_count(page_id) >= 0, "a free page cannot be shared");
  ++ref_counts_[page_id];
}

bool PageAllocator::release(int32_t page_id) {
  TANDEM_CHECK(ref_count(page_id) > 0, "a page was released more often than held");
  return --ref_counts_[page_id] == 0;
}

void PageAllocator::free(int32_t page_id) {
  TANDEM_CHECK(ref_count(page_id) == 0, "only a page that nobody holds can be freed");
  ref_counts_[page_id] = kFree;
  free_page_ids_.push_back(page_id);
}

int32_t PageAllocator::ref_count(int32_t page_id) const {
  TANDEM_CHECK(page_id >= 0 && page_id < num_pages(), "page id out of range");
  return ref_counts_[page_id];
}

}  // namespace tandem
