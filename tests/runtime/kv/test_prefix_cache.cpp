#include "runtime/kv/prefix_cache.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <deque>
#include <map>
#include <random>
#include <set>

#include "runtime/kv/page_table.h"

namespace tandem {
namespace {

PageHash hash_of(int32_t content) {
  const std::vector<int32_t> token_ids(64, content);
  return extend_page_hash(root_page_hash(7), token_ids);
}

TEST_CASE("every page is handed out once, then none", "[kv]") {
  PageAllocator allocator(5);
  std::set<int32_t> page_ids;
  for (int page_idx = 0; page_idx < 5; ++page_idx) page_ids.insert(allocator.allocate());
  CHECK(page_ids == std::set<int32_t>{0, 1, 2, 3, 4});
  CHECK(allocator.allocate() == -1);
  CHECK(allocator.num_free() == 0);
  allocator.retain(3);
  CHECK_FALSE(allocator.release(3));
  CHECK(allocator.release(3));
  CHECK(allocator.ref_count(3) == 0);
  allocator.free(3);
  CHECK(allocator.ref_count(3) == -1);
  CHECK(allocator.allocate() == 3);
}

TEST_CASE("a released page is found by its contents until the pages are needed", "[kv]") {
  PrefixCache cache({.num_pages = 3, .enabled = true, .secret = 1});
  const int32_t first = cache.allocate(), second = cache.allocate(), third = cache.allocate();
  cache.insert(hash_of(1), first);
  cache.insert(hash_of(2), second);
  cache.release(second);  // idle for longest
  cache.release(first);
  cache.release(third);  // contents unknown: free at once
  CHECK(cache.num_available() == 3);
  CHECK(cache.num_idle() == 2);
  CHECK(cache.allocate() == third);   // free pages go before idle ones
  CHECK(cache.allocate() == second);  // then the oldest
  CHECK(cache.acquire(hash_of(2)) == -1);
  CHECK(cache.acquire(hash_of(1)) == first);
  CHECK(cache.acquire(hash_of(1)) == first);
  CHECK(cache.ref_count(first) == 2);
  CHECK(cache.allocate() == -1);
}

TEST_CASE("of two pages with the same contents the first is found, the other is freed", "[kv]") {
  PrefixCache cache({.num_pages = 2, .enabled = true, .secret = 1});
  const int32_t first = cache.allocate(), second = cache.allocate();
  cache.insert(hash_of(1), first);
  cache.insert(hash_of(1), second);
  cache.release(second);
  CHECK(cache.num_idle() == 0);
  CHECK(cache.acquire(hash_of(1)) == first);
}

TEST_CASE("a disabled cache remembers nothing", "[kv]") {
  PrefixCache cache({.num_pages = 2, .enabled = false, .secret = 1});
  const int32_t page_id = cache.allocate();
  cache.insert(hash_of(1), page_id);
  CHECK(cache.acquire(hash_of(1)) == -1);
  cache.release(page_id);
  CHECK(cache.num_idle() == 0);
  CHECK(cache.num_available() == 2);
}

TEST_CASE("what is forgotten is not found, and its idle pages are free", "[kv]") {
  PrefixCache cache({.num_pages = 4, .enabled = true, .secret = 1});
  const PageHash held_hash{1, 1}, idle_hash{2, 2};
  const int32_t held = cache.allocate();
  const int32_t idle = cache.allocate();
  cache.insert(held_hash, held);
  cache.insert(idle_hash, idle);
  cache.release(idle);
  CHECK(cache.num_idle() == 1);
  cache.forget_all(2);
  CHECK(cache.num_idle() == 0);
  CHECK(cache.num_available() == 3);
  CHECK(cache.acquire(held_hash) == -1);
  CHECK(cache.acquire(idle_hash) == -1);
  // A page still held goes on, and may be made known again.
  cache.insert(held_hash, held);
  CHECK(cache.acquire(held_hash) == held);
  cache.release(held);
  cache.release(held);
  CHECK(cache.num_available() == 4);
}

TEST_CASE("what becomes known and what is forgotten for others is listed until it is cleared",
          "[kv]") {
  PrefixCache cache({.num_pages = 2, .enabled = true, .secret = 1, .lists_changes = true});
  const int32_t first = cache.allocate(), second = cache.allocate();
  cache.insert(hash_of(1), first);
  cache.insert(hash_of(1), second);  // known already
  REQUIRE(cache.learned().size() == 1);
  CHECK(cache.learned()[0].hash == hash_of(1));
  CHECK(cache.learned()[0].page_id == first);
  cache.clear_changes();
  cache.release(first);
  CHECK(cache.evicted().empty());
  CHECK(cache.allocate() == first);
  REQUIRE(cache.evicted().size() == 1);
  CHECK(cache.evicted()[0].hash == hash_of(1));
  CHECK(cache.evicted()[0].page_id == first);
  CHECK(cache.learned().empty());
  cache.clear_changes();
  CHECK(cache.evicted().empty());
}

TEST_CASE("when the pages are lost their contents are known by the same hashes", "[kv]") {
  PrefixCache cache({.num_pages = 4, .enabled = true, .secret = 1, .lists_changes = true});
  const int32_t held = cache.allocate(), older = cache.allocate(), newer = cache.allocate();
  cache.insert(hash_of(1), held);
  cache.insert(hash_of(2), newer);
  cache.insert(hash_of(3), older);
  cache.release(older);
  cache.release(newer);
  std::vector<int32_t> known;
  for (const KnownPage& page : cache.known_pages()) known.push_back(page.page_id);
  CHECK(known == std::vector<int32_t>{older, newer, held});
  const PageHash root = cache.root_hash();
  cache.forget_pages();
  CHECK(cache.root_hash() == root);
  CHECK(cache.known_pages().empty());
  CHECK(cache.learned().empty());
  CHECK(cache.num_available() == 3);
  CHECK(cache.acquire(hash_of(1)) == -1);
  cache.forget_all(2);
  CHECK_FALSE(cache.root_hash() == root);
}

TEST_CASE("a page table takes all pages that it asks for, or none", "[kv]") {
  PrefixCache cache({.num_pages = 4, .enabled = true, .secret = 1});
  PageTable table;
  CHECK(num_pages_for(0) == 0);
  CHECK(num_pages_for(1) == 1);
  CHECK(num_pages_for(64) == 1);
  CHECK(num_pages_for(65) == 2);
  CHECK(table.extend_to(cache, 65));
  CHECK(table.extend_to(cache, 128));
  CHECK(table.num_pages() == 2);
  CHECK_FALSE(table.extend_to(cache, 5 * 64));
  CHECK(table.num_pages() == 2);
  CHECK(table.extend_to(cache, 4 * 64));
  table.release(cache);
  CHECK(cache.num_available() == 4);
}

TEST_CASE("a prefix is taken up to its first unknown page and forgotten from its end", "[kv]") {
  PrefixCache cache({.num_pages = 4, .enabled = true, .secret = 1});
  const std::vector<PageHash> hashes = {hash_of(1), hash_of(2), hash_of(3)};
  PageTable writer;
  REQUIRE(writer.extend_to(cache, 3 * 64));
  const std::vector<int32_t> pages(writer.page_ids().begin(), writer.page_ids().end());
  writer.remember_full_pages(cache, std::span(hashes).first(2));

  PageTable reader;
  CHECK(reader.acquire_prefix(cache, hashes) == 2);
  CHECK(reader.page_ids()[1] == pages[1]);
  writer.remember_full_pages(cache, hashes);
  reader.release(cache);
  writer.release(cache);
  CHECK(cache.num_idle() == 3);

  PageTable other;
  REQUIRE(other.extend_to(cache, 2 * 64));  // the free page and the prefix's last
  CHECK(reader.acquire_prefix(cache, hashes) == 2);
  reader.release(cache);
  other.release(cache);
}

// The same rules with lists and maps, slow and obvious.
struct NaiveCache {
  std::map<int32_t, int32_t> ref_counts;  // of pages in use
  std::map<int32_t, int32_t> page_of;     // contents -> page
  std::map<int32_t, int32_t> content_of;
  std::deque<int32_t> idle;  // oldest first
  int32_t num_free = 0;

  void forget_oldest() {
    const int32_t page_id = idle.front();
    idle.pop_front();
    page_of.erase(content_of.at(page_id));
    content_of.erase(page_id);
    ++num_free;
  }
};

void allocate_in_both(PrefixCache& cache, NaiveCache& naive) {
  const int32_t page_id = cache.allocate();
  if (naive.num_free == 0 && !naive.idle.empty()) naive.forget_oldest();
  REQUIRE((page_id >= 0) == (naive.num_free > 0));
  if (page_id < 0) return;
  REQUIRE_FALSE(naive.ref_counts.contains(page_id));
  REQUIRE_FALSE(naive.content_of.contains(page_id));
  --naive.num_free;
  naive.ref_counts[page_id] = 1;
}

void acquire_in_both(PrefixCache& cache, NaiveCache& naive, int32_t content) {
  const int32_t page_id = cache.acquire(hash_of(content));
  const auto known = naive.page_of.find(content);
  REQUIRE(page_id == (known == naive.page_of.end() ? -1 : known->second));
  if (page_id < 0) return;
  std::erase(naive.idle, page_id);
  ++naive.ref_counts[page_id];
}

void release_in_both(PrefixCache& cache, NaiveCache& naive, int32_t page_id) {
  cache.release(page_id);
  if (--naive.ref_counts[page_id] > 0) return;
  naive.ref_counts.erase(page_id);
  if (naive.content_of.contains(page_id)) {
    naive.idle.push_back(page_id);
  } else {
    ++naive.num_free;
  }
}

TEST_CASE("any order of operations leaves the cache as the naive one", "[kv]") {
  for (uint32_t seed = 0; seed < 40; ++seed) {
    std::mt19937 rng(seed);
    const int32_t num_pages = static_cast<int32_t>(rng() % 9);
    PrefixCache cache({.num_pages = num_pages, .enabled = true, .secret = seed});
    NaiveCache naive;
    naive.num_free = num_pages;
    INFO("seed " << seed << ", pages " << num_pages);
    for (int operation_idx = 0; operation_idx < 500; ++operation_idx) {
      const int32_t content = static_cast<int32_t>(rng() % 12);
      int32_t held = -1;
      if (!naive.ref_counts.empty())
        held = std::next(naive.ref_counts.begin(), rng() % naive.ref_counts.size())->first;
      switch (rng() % 4) {
        case 0:
          allocate_in_both(cache, naive);
          break;
        case 1:
          acquire_in_both(cache, naive, content);
          break;
        case 2:
          if (held >= 0) release_in_both(cache, naive, held);
          break;
        default:
          if (held < 0) break;
          cache.insert(hash_of(content), held);
          if (naive.page_of.contains(content) || naive.content_of.contains(held)) break;
          naive.page_of[content] = held;
          naive.content_of[held] = content;
      }
      REQUIRE(cache.num_idle() == static_cast<int32_t>(naive.idle.size()));
      REQUIRE(cache.num_used() == static_cast<int32_t>(naive.ref_counts.size()));
      for (const auto& [page_id, ref_count] : naive.ref_counts)
        REQUIRE(cache.ref_count(page_id) == ref_count);
    }
  }
}

}  // namespace
}  // namespace tandem
