#include "runtime/kv_store/host_pages.h"

#include <catch2/catch_test_macros.hpp>
#include <set>

namespace tandem {
namespace {

PageHash hash_of(uint64_t content) { return {.low = content, .high = 7}; }

// What nothing wants any more.
constexpr uint64_t kNow = 10;

TEST_CASE("pages have memory of their own, and the one unused for longest gives way",
          "[kv_store]") {
  HostPages pages(100, 3);
  std::set<const std::byte*> places;
  for (uint64_t content = 0; content < 3; ++content) {
    HostPage* page = pages.take(hash_of(content), kNow);
    REQUIRE(page != nullptr);
    CHECK(page->bytes.size() == 100);
    CHECK_FALSE(page->is_filled);
    places.insert(page->bytes.data());
  }
  CHECK(places.size() == 3);
  CHECK(pages.num_used() == 3);
  pages.mark_used(*pages.find(hash_of(0)));
  pages.mark_spare(*pages.find(hash_of(2)));
  REQUIRE(pages.take(hash_of(3), kNow) != nullptr);
  CHECK(pages.find(hash_of(2)) == nullptr);
  REQUIRE(pages.take(hash_of(4), kNow) != nullptr);
  CHECK(pages.find(hash_of(1)) == nullptr);
  for (const uint64_t content : {0, 3, 4}) CHECK(pages.find(hash_of(content)) != nullptr);
  CHECK(pages.num_used() == 3);
}

TEST_CASE("pages that are busy or wanted stay", "[kv_store]") {
  HostPages pages(8, 2);
  HostPage* busy = pages.take(hash_of(0), kNow);
  HostPage* wanted = pages.take(hash_of(1), kNow);
  busy->is_busy = true;
  wanted->wanted_at = kNow;
  CHECK(pages.take(hash_of(2), kNow) == nullptr);
  CHECK(pages.take(hash_of(2), kNow + 1) != nullptr);
  CHECK(pages.find(hash_of(0)) == busy);
  CHECK(pages.find(hash_of(1)) == nullptr);
}

TEST_CASE("what is forgotten is gone, but for pages that are busy", "[kv_store]") {
  HostPages pages(8, 2);
  HostPage* busy = pages.take(hash_of(0), kNow);
  busy->is_busy = true;
  pages.take(hash_of(1), kNow);
  pages.forget_all();
  CHECK(pages.num_used() == 1);
  CHECK(busy->is_forgotten);
  busy->is_busy = false;
  pages.drop(*busy);
  CHECK(pages.num_used() == 0);
  CHECK_FALSE(pages.take(hash_of(0), kNow)->is_forgotten);
}

}  // namespace
}  // namespace tandem
