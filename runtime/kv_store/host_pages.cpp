#include "runtime/kv_store/host_pages.h"

#include <algorithm>

#include "runtime/base/check.h"

namespace tandem {

HostPages::HostPages(int64_t page_size_bytes, int32_t num_pages)
    : num_pages_(num_pages), memory_(page_size_bytes * num_pages, -1) {
  TANDEM_CHECK(page_size_bytes > 0 && num_pages > 0, "pages of the host have a size and a number");
  page_of_.reserve(static_cast<size_t>(num_pages));
  free_.reserve(static_cast<size_t>(num_pages));
  for (int32_t idx = num_pages - 1; idx >= 0; --idx) {
    free_.emplace_back(memory_.data() + idx * page_size_bytes,
                       static_cast<size_t>(page_size_bytes));
  }
}

HostPage* HostPages::find(PageHash hash) {
  const auto found = page_of_.find(hash);
  return found == page_of_.end() ? nullptr : &*found->second;
}

HostPage* HostPages::take(PageHash hash, uint64_t wanted_since) {
  TANDEM_CHECK(!page_of_.contains(hash), "a page is taken once");
  if (free_.empty()) {
    const auto oldest = std::find_if(pages_.begin(), pages_.end(), [&](const HostPage& page) {
      return !page.is_busy && page.wanted_at < wanted_since;
    });
    if (oldest == pages_.end()) return nullptr;
    drop(*oldest);
  }
  pages_.push_back({.hash = hash, .bytes = free_.back()});
  free_.pop_back();
  page_of_[hash] = std::prev(pages_.end());
  return &pages_.back();
}

void HostPages::drop(HostPage& page) {
  TANDEM_CHECK(!page.is_busy, "a page was dropped that somebody reads or writes");
  const auto found = page_of_.find(page.hash);
  const Pages::iterator place = found->second;
  free_.push_back(page.bytes);
  page_of_.erase(found);
  pages_.erase(place);
}

void HostPages::forget_all() {
  for (auto page = pages_.begin(); page != pages_.end();) {
    HostPage& one = *page++;
    one.is_forgotten = true;
    if (!one.is_busy) drop(one);
  }
}

}  // namespace tandem
