// The merge table of a byte-level BPE and its application to one piece (model/spec.md §4.3).
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

class BytePairEncoder {
 public:
  static constexpr int32_t kNoToken = -1;

  // tokens[rank] are the bytes of that token: distinct, not empty, all 256 single bytes among them
  // (the loader has checked).
  explicit BytePairEncoder(const std::vector<std::string>& tokens);

  [[nodiscard]] int32_t find(std::string_view bytes) const;  // rank or kNoToken
  [[nodiscard]] std::string_view bytes(int32_t rank) const;
  [[nodiscard]] int32_t num_tokens() const { return static_cast<int32_t>(offsets_.size()) - 1; }

  // A piece that is a token is that token. Else: merge the adjacent pair whose concatenation has
  // the lowest rank (the leftmost of equals) until no pair is in the table.
  void encode_piece(std::string_view piece, std::vector<int32_t>& ids) const;

 private:
  struct Slot {
    uint32_t hash = 0;
    int32_t rank = kNoToken;
  };
  [[nodiscard]] int32_t pair_rank(std::string_view piece, size_t begin, size_t end) const;
  void merge_short(std::string_view piece, std::vector<int32_t>& ids) const;
  void merge_long(std::string_view piece, std::vector<int32_t>& ids) const;

  std::string blob_;                     // all tokens' bytes, by rank
  std::vector<uint32_t> offsets_;        // [num_tokens + 1] into blob_
  std::vector<Slot> slots_;              // open addressing, a power of two, at most half full
  std::vector<int32_t> two_byte_ranks_;  // [65536] by first byte * 256 + second byte
  size_t max_token_size_ = 0;
};

}  // namespace tandem
