#include "runtime/kv/prefix_cache.h"

#include <algorithm>
#include <bit>

#include "runtime/base/check.h"

namespace tandem {

PrefixCache::PrefixCache(const Options& options)
    : options_(options),
      root_hash_(root_page_hash(options.secret)),
      allocator_(options.num_pages),
      pages_(static_cast<size_t>(options.num_pages)),
      buckets_(std::bit_ceil(static_cast<size_t>(std::max(options.num_pages, 1))), -1) {
  if (!options.lists_changes) return;
  evicted_.reserve(pages_.size());
  learned_.reserve(pages_.size());
}

int32_t PrefixCache::allocate() {
  if (allocator_.num_free() == 0 && num_idle_ > 0) {
    const int32_t page_id = oldest_idle_;
    if (options_.lists_changes) evicted_.push_back({pages_[page_id].hash, page_id});
    remove_idle(page_id);
    forget(page_id);
    allocator_.free(page_id);
  }
  return allocator_.allocate();
}

int32_t PrefixCache::acquire(PageHash hash) {
  const int32_t page_id = find(hash);
  if (page_id < 0) return -1;
  if (allocator_.ref_count(page_id) == 0) remove_idle(page_id);
  allocator_.retain(page_id);
  return page_id;
}

void PrefixCache::release(int32_t page_id) {
  if (!allocator_.release(page_id)) return;
  if (pages_[page_id].is_known) {
    append_idle(page_id);
  } else {
    allocator_.free(page_id);
  }
}

void PrefixCache::insert(PageHash hash, int32_t page_id) {
  TANDEM_CHECK(allocator_.ref_count(page_id) > 0, "only a held page can be remembered");
  if (!options_.enabled || pages_[page_id].is_known || find(hash) >= 0) return;
  Page& page = pages_[page_id];
  page.hash = hash;
  page.is_known = true;
  page.next_in_bucket = buckets_[bucket_of(hash)];
  buckets_[bucket_of(hash)] = page_id;
  if (options_.lists_changes) learned_.push_back({hash, page_id});
}

void PrefixCache::forget_all(uint64_t secret) {
  root_hash_ = root_page_hash(secret);
  forget_pages();
}

void PrefixCache::forget_pages() {
  clear_changes();
  for (int32_t page_id = 0; page_id < num_pages(); ++page_id) {
    if (!pages_[page_id].is_known) continue;
    forget(page_id);
    if (allocator_.ref_count(page_id) > 0) continue;
    remove_idle(page_id);
    allocator_.free(page_id);
  }
}

void PrefixCache::clear_changes() {
  evicted_.clear();
  learned_.clear();
}

std::vector<KnownPage> PrefixCache::known_pages() const {
  std::vector<KnownPage> known;
  for (int32_t page_id = oldest_idle_; page_id >= 0; page_id = pages_[page_id].newer)
    known.push_back({pages_[page_id].hash, page_id});
  for (int32_t page_id = 0; page_id < num_pages(); ++page_id) {
    if (pages_[page_id].is_known && allocator_.ref_count(page_id) > 0)
      known.push_back({pages_[page_id].hash, page_id});
  }
  return known;
}

size_t PrefixCache::bucket_of(PageHash hash) const { return hash.low & (buckets_.size() - 1); }

int32_t PrefixCache::find(PageHash hash) const {
  int32_t page_id = buckets_[bucket_of(hash)];
  while (page_id >= 0 && !(pages_[page_id].hash == hash)) page_id = pages_[page_id].next_in_bucket;
  return page_id;
}

void PrefixCache::forget(int32_t page_id) {
  Page& page = pages_[page_id];
  int32_t* link = &buckets_[bucket_of(page.hash)];
  while (*link != page_id) link = &pages_[*link].next_in_bucket;
  *link = page.next_in_bucket;
  page.is_known = false;
  page.next_in_bucket = -1;
}

void PrefixCache::append_idle(int32_t page_id) {
  pages_[page_id].older = newest_idle_;
  pages_[page_id].newer = -1;
  (newest_idle_ >= 0 ? pages_[newest_idle_].newer : oldest_idle_) = page_id;
  newest_idle_ = page_id;
  ++num_idle_;
}

void PrefixCache::remove_idle(int32_t page_id) {
  const Page& page = pages_[page_id];
  (page.older >= 0 ? pages_[page.older].newer : oldest_idle_) = page.newer;
  (page.newer >= 0 ? pages_[page.newer].older : newest_idle_) = page.older;
  --num_idle_;
}

}  // namespace tandem
