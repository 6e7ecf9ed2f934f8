#include "runtime/kv/page_hash.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <random>
#include <set>
#include <string>
#include <utility>

#include "runtime/model/forward_model.h"

namespace tandem {
namespace {

using Key = std::pair<uint64_t, uint64_t>;
Key key_of(PageHash hash) { return {hash.low, hash.high}; }

std::vector<int32_t> random_page(std::mt19937& rng) {
  std::vector<int32_t> token_ids(kPageSizeTokens);
  for (int32_t& token_id : token_ids) token_id = static_cast<int32_t>(rng() % 163840);
  return token_ids;
}

TEST_CASE("pages that differ in any one or two places have different hashes", "[kv]") {
  std::mt19937 rng(1);
  const PageHash root = root_page_hash(42);
  const std::vector<int32_t> page = random_page(rng);
  std::set<Key> seen = {key_of(extend_page_hash(root, page))};
  size_t num_pages = 1;
  // One bit of one token, and of two tokens: what weak mixing would cancel.
  for (size_t token_idx = 0; token_idx < page.size(); ++token_idx) {
    for (int bit_idx = 0; bit_idx < 18; ++bit_idx) {
      std::vector<int32_t> changed = page;
      changed[token_idx] ^= 1 << bit_idx;
      seen.insert(key_of(extend_page_hash(root, changed)));
      ++num_pages;
      for (size_t other_idx = token_idx + 1; other_idx < page.size(); ++other_idx) {
        std::vector<int32_t> twice = changed;
        twice[other_idx] ^= 1 << bit_idx;
        seen.insert(key_of(extend_page_hash(root, twice)));
        ++num_pages;
      }
    }
  }
  CHECK(seen.size() == num_pages);
}

TEST_CASE("either half of a hash tells random pages apart", "[kv]") {
  // 2^17 pages: a 64-bit half collides by chance with probability 2^33 / 2^64.
  std::mt19937 rng(2);
  const PageHash root = root_page_hash(42);
  std::set<uint64_t> lows, highs;
  constexpr size_t kNumPages = 1 << 17;
  for (size_t page_idx = 0; page_idx < kNumPages; ++page_idx) {
    const PageHash hash = extend_page_hash(root, random_page(rng));
    lows.insert(hash.low);
    highs.insert(hash.high);
  }
  CHECK(lows.size() == kNumPages);
  CHECK(highs.size() == kNumPages);
}

TEST_CASE("a flipped bit of a token flips about half of the hash", "[kv]") {
  std::mt19937 rng(3);
  const PageHash root = root_page_hash(42);
  // 64 tokens x 18 bits x 128: flips are binomial with p = 1/2; per input bit the standard
  // deviation is sqrt(128) / 2 = 5.7 of 64, so 64 +- 35 is six of them.
  const std::vector<int32_t> page = random_page(rng);
  const PageHash before = extend_page_hash(root, page);
  for (size_t token_idx = 0; token_idx < page.size(); ++token_idx) {
    for (int bit_idx = 0; bit_idx < 18; ++bit_idx) {
      std::vector<int32_t> changed = page;
      changed[token_idx] ^= 1 << bit_idx;
      const PageHash after = extend_page_hash(root, changed);
      const int num_flipped = __builtin_popcountll(before.low ^ after.low) +
                              __builtin_popcountll(before.high ^ after.high);
      INFO("token " << token_idx << " bit " << bit_idx);
      CHECK(num_flipped > 29);
      CHECK(num_flipped < 99);
    }
  }
}

TEST_CASE("a page's hash depends on everything before it and on the secret", "[kv]") {
  std::mt19937 rng(4);
  const std::vector<int32_t> first = random_page(rng), other = random_page(rng);
  const std::vector<int32_t> second = random_page(rng);
  const PageHash root = root_page_hash(1);
  const PageHash chained = extend_page_hash(extend_page_hash(root, first), second);
  CHECK_FALSE(chained == extend_page_hash(root, second));
  CHECK_FALSE(chained == extend_page_hash(extend_page_hash(root, other), second));
  CHECK_FALSE(chained == extend_page_hash(extend_page_hash(root, second), first));
  CHECK_FALSE(chained == extend_page_hash(extend_page_hash(root_page_hash(2), first), second));
  CHECK(chained == extend_page_hash(extend_page_hash(root_page_hash(1), first), second));
}

TEST_CASE("every salt has a root of its own, which no page has", "[kv]") {
  const PageHash root = root_page_hash(5);
  std::vector<PageHash> roots = {root};
  for (const std::string salt : {"a", "b", "aa", "ab", "ba", "aaaaaaaaa"})
    roots.push_back(salted_root_hash(root, salt));
  roots.push_back(salted_root_hash(root, std::string("a\0", 2)));
  roots.push_back(extend_page_hash(root, std::vector<int32_t>{'a'}));
  roots.push_back(extend_page_hash(root, std::vector<int32_t>{'a', 'b'}));
  for (size_t left = 0; left < roots.size(); ++left) {
    for (size_t right = 0; right < left; ++right) CHECK_FALSE(roots[left] == roots[right]);
  }
  CHECK(salted_root_hash(root, "ab") == roots[4]);
}

TEST_CASE("hashes are appended page by page for full pages only", "[kv]") {
  std::mt19937 rng(5);
  std::vector<int32_t> token_ids;
  for (int page_idx = 0; page_idx < 4; ++page_idx) {
    const std::vector<int32_t> page = random_page(rng);
    token_ids.insert(token_ids.end(), page.begin(), page.end());
  }
  const PageHash root = root_page_hash(9);
  std::vector<PageHash> at_once, bit_by_bit;
  extend_page_hashes(root, token_ids, at_once);
  CHECK(at_once.size() == 4);
  for (size_t num_tokens = 0; num_tokens <= token_ids.size(); ++num_tokens) {
    extend_page_hashes(root, std::span(token_ids).first(num_tokens), bit_by_bit);
    CHECK(bit_by_bit.size() == num_tokens / kPageSizeTokens);
  }
  CHECK(bit_by_bit == at_once);
  CHECK(at_once[1] ==
        extend_page_hash(at_once[0], std::span(token_ids).subspan(kPageSizeTokens, 64)));
}

}  // namespace
}  // namespace tandem
