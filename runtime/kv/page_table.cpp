#include "runtime/kv/page_table.h"

#include "runtime/base/check.h"
#include "runtime/model/forward_model.h"

namespace tandem {

int32_t num_pages_for(int64_t num_tokens) {
  return static_cast<int32_t>((num_tokens + kPageSizeTokens - 1) / kPageSizeTokens);
}

PageTable::~PageTable() { TANDEM_CHECK(page_ids_.empty(), "pages of a sequence were lost"); }

int32_t PageTable::acquire_prefix(PrefixCache& cache, std::span<const PageHash> hashes) {
  TANDEM_CHECK(page_ids_.empty(), "a prefix can only be taken by an empty table");
  if (!cache.enabled()) return 0;
  for (const PageHash hash : hashes) {
    const int32_t page_id = cache.acquire(hash);
    if (page_id < 0) break;
    page_ids_.push_back(page_id);
  }
  num_remembered_ = num_pages();
  return num_pages();
}

bool PageTable::extend_to(PrefixCache& cache, int64_t num_tokens) {
  const int32_t num_wanted = num_pages_for(num_tokens);
  if (num_wanted - num_pages() > cache.num_available()) return false;
  while (num_pages() < num_wanted) page_ids_.push_back(cache.allocate());
  return true;
}

void PageTable::remember_full_pages(PrefixCache& cache, std::span<const PageHash> hashes) {
  const int32_t num_full = static_cast<int32_t>(hashes.size());
  TANDEM_CHECK(num_full <= num_pages(), "more full pages than pages");
  for (; num_remembered_ < num_full; ++num_remembered_)
    cache.insert(hashes[num_remembered_], page_ids_[num_remembered_]);
}

void PageTable::release(PrefixCache& cache) {
  while (!page_ids_.empty()) {
    cache.release(page_ids_.back());
    page_ids_.pop_back();
  }
  num_remembered_ = 0;
}

}  // namespace tandem
