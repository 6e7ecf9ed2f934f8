// Copies of KV pages in host memory, by their hashes. The engine thread's, but for the bytes of
// pages that are just being read or written.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <span>
#include <unordered_map>
#include <vector>

#include "runtime/kv/page_hash.h"
#include "runtime/memory/numa_buffer.h"

namespace tandem {

struct HostPage {
  PageHash hash;
  std::span<std::byte> bytes;
  bool is_filled = false;     // the copy is there
  bool is_busy = false;       // somebody reads or writes the bytes: the page stays where it is...
  bool is_forgotten = false;  // ...and goes when that is over
  uint64_t wanted_at = 0;     // the last plan that asked for it
};

class HostPages {
 public:
  // Memory is taken as it is first used. Throws LoadError.
  HostPages(int64_t page_size_bytes, int32_t num_pages);

  [[nodiscard]] HostPage* find(PageHash hash);
  // A page for contents of `hash`, which no page has, to be filled; it counts as used now. The one
  // unused for longest gives way, but none that is busy or was wanted at `wanted_since` or later.
  // Null where no page can be had.
  HostPage* take(PageHash hash, uint64_t wanted_since);
  void mark_used(HostPage& page) { move(page, pages_.end()); }
  // The first to give way: its contents are elsewhere too.
  void mark_spare(HostPage& page) { move(page, pages_.begin()); }
  void drop(HostPage& page);
  void forget_all();

  [[nodiscard]] int32_t num_pages() const { return num_pages_; }
  [[nodiscard]] int32_t num_used() const { return static_cast<int32_t>(pages_.size()); }

 private:
  using Pages = std::list<HostPage>;
  void move(HostPage& page, Pages::const_iterator place) {
    pages_.splice(place, pages_, page_of_.at(page.hash));
  }

  int32_t num_pages_;
  NumaBuffer memory_;
  Pages pages_;  // in use; the one unused for longest first
  std::unordered_map<PageHash, Pages::iterator, HashOfPageHash> page_of_;
  std::vector<std::span<std::byte>> free_;
};

}  // namespace tandem
