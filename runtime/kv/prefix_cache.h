// Hands out pages and remembers what full pages hold, so that a prompt's known beginning is not
// computed again. Bookkeeping only: the bytes are the model's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/kv/page_allocator.h"
#include "runtime/kv/page_hash.h"

namespace tandem {

// A page and what is known of its contents.
struct KnownPage {
  PageHash hash;
  int32_t page_id = 0;
};

// A page is free, held by sequences, or idle: held by none but known by its hash. Idle pages count
// as available; the one idle for longest is forgotten when no page is free.
// All memory is taken by the constructor.
class PrefixCache {
 public:
  struct Options {
    int32_t num_pages = 0;
    bool enabled = true;  // false: nothing is remembered, released pages are free at once
    uint64_t secret = 0;
    bool lists_changes = false;  // of what is known: evicted() and learned()
  };
  explicit PrefixCache(const Options& options);

  int32_t allocate();  // a page with one holder, -1 when none is free or idle
  // The page of these contents with one more holder, -1 when unknown.
  int32_t acquire(PageHash hash);
  void release(int32_t page_id);
  // From now on `page_id`, held and full, is found by `hash`. When the contents are known already
  // (two sequences computed them side by side) the first page stays the one that is found.
  void insert(PageHash hash, int32_t page_id);
  // What the pages held is lost: none is known any more, idle ones become free.
  void forget_pages();
  // The same, and what is hashed from the root of before finds, and is found by, its like alone.
  void forget_all(uint64_t secret);

  // Since the last clear_changes(): pages forgotten to be used for others, whose contents are there
  // until somebody writes to them; pages that have become known.
  [[nodiscard]] std::span<const KnownPage> evicted() const { return evicted_; }
  [[nodiscard]] std::span<const KnownPage> learned() const { return learned_; }
  void clear_changes();
  // All known pages: idle ones from the one idle for longest, then those that are held.
  [[nodiscard]] std::vector<KnownPage> known_pages() const;

  [[nodiscard]] bool enabled() const { return options_.enabled; }
  [[nodiscard]] PageHash root_hash() const { return root_hash_; }
  [[nodiscard]] int32_t num_pages() const { return allocator_.num_pages(); }
  [[nodiscard]] int32_t num_available() const { return allocator_.num_free() + num_idle_; }
  [[nodiscard]] int32_t num_used() const { return num_pages() - num_available(); }
  [[nodiscard]] int32_t num_idle() const { return num_idle_; }
  [[nodiscard]] int32_t ref_count(int32_t page_id) const { return allocator_.ref_count(page_id); }

 private:
  struct Page {
    PageHash hash;
    bool is_known = false;  // found by `hash`
    int32_t next_in_bucket = -1;
    int32_t older = -1, newer = -1;  // neighbours among the idle pages
  };

  [[nodiscard]] size_t bucket_of(PageHash hash) const;
  [[nodiscard]] int32_t find(PageHash hash) const;
  void forget(int32_t page_id);
  void append_idle(int32_t page_id);
  void remove_idle(int32_t page_id);

  Options options_;
  std::vector<KnownPage> evicted_, learned_;  // [at most num_pages]
  PageHash root_hash_;
  PageAllocator allocator_;
  std::vector<Page> pages_;       // [num_pages]
  std::vector<int32_t> buckets_;  // [power of two >= num_pages], first page of the chain or -1
  int32_t oldest_idle_ = -1, newest_idle_ = -1;
  int32_t num_idle_ = 0;
};

}  // namespace tandem
