// Name of a full page's contents: a chained 128-bit hash of all tokens from the sequence's start.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace tandem {

struct PageHash {
  uint64_t low = 0;
  uint64_t high = 0;
  friend bool operator==(const PageHash&, const PageHash&) = default;
};

// For tables: a part of it is as good a hash as the whole.
struct HashOfPageHash {
  size_t operator()(const PageHash& hash) const { return static_cast<size_t>(hash.low); }
};

// The parent of a sequence's first page. A secret per process keeps outsiders from constructing
// two prompts of one hash.
PageHash root_page_hash(uint64_t secret);

// Another parent for every salt, so that pages computed under one are found under that one alone.
// `salt` is not empty.
PageHash salted_root_hash(PageHash root, std::string_view salt);

// Hash of the page that holds `token_ids` behind everything that `parent` stands for. Equal hashes
// mean equal prefixes: by chance they collide with probability pages^2 / 2^129.
PageHash extend_page_hash(PageHash parent, std::span<const int32_t> token_ids);

// Appends the hashes of the pages that are full in `token_ids` and not yet in `hashes`.
void extend_page_hashes(PageHash root,
                        std::span<const int32_t> token_ids,
                        std::vector<PageHash>& hashes);

}  // namespace tandem
