#include "runtime/kv/page_hash.h"

#include <bit>

#include "runtime/model/forward_model.h"

namespace tandem {
namespace {

// Odd, so that a multiplication permutes the 64-bit words; bits of the golden ratio and of pi.
constexpr uint64_t kLowFactor = 0x9e3779b97f4a7c15u;
constexpr uint64_t kHighFactor = 0x243f6a8885a308d3u;

// For a given word this permutes the 128-bit state, and two words take one state to two states:
// pages that differ in one word never collide, others only as random functions do.
void mix(PageHash& state, uint64_t word) {
  state.low = std::rotl((state.low ^ word) * kLowFactor, 29) + state.high;
  state.high = std::rotl((state.high + word) * kHighFactor, 31) ^ state.low;
}

}  // namespace

PageHash root_page_hash(uint64_t secret) {
  PageHash root{secret, ~secret};
  for (int round_idx = 0; round_idx < 4; ++round_idx) mix(root, secret);
  return root;
}

PageHash salted_root_hash(PageHash root, std::string_view salt) {
  constexpr uint64_t kSaltByte = uint64_t{1} << 63;  // in no word of a page: token ids are positive
  PageHash state = root;
  for (const char byte : salt) mix(state, kSaltByte | static_cast<unsigned char>(byte));
  for (int round_idx = 0; round_idx < 4; ++round_idx) mix(state, kSaltByte | salt.size() << 8);
  return state;
}

PageHash extend_page_hash(PageHash parent, std::span<const int32_t> token_ids) {
  PageHash state = parent;
  for (size_t token_idx = 0; token_idx < token_ids.size(); token_idx += 2) {
    uint64_t word = static_cast<uint32_t>(token_ids[token_idx]);
    if (token_idx + 1 < token_ids.size())
      word |= static_cast<uint64_t>(static_cast<uint32_t>(token_ids[token_idx + 1])) << 32;
    mix(state, word);
  }
  // The last words have to reach every bit too.
  for (int round_idx = 0; round_idx < 4; ++round_idx) mix(state, token_ids.size());
  return state;
}

void extend_page_hashes(PageHash root,
                        std::span<const int32_t> token_ids,
                        std::vector<PageHash>& hashes) {
  while ((hashes.size() + 1) * kPageSizeTokens <= token_ids.size()) {
    const PageHash parent = hashes.empty() ? root : hashes.back();
    hashes.push_back(extend_page_hash(
        parent, token_ids.subspan(hashes.size() * kPageSizeTokens, kPageSizeTokens)));
  }
}

}  // namespace tandem
