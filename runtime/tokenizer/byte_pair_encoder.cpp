#include "runtime/tokenizer/byte_pair_encoder.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <queue>

#include "runtime/base/check.h"

namespace tandem {
namespace {

constexpr int32_t kNoRank = std::numeric_limits<int32_t>::max();
// Below this a scan for the minimum beats the heap; both give the same ids.
constexpr size_t kMaxScannedPieceBytes = 128;

uint32_t hash_bytes(std::string_view bytes) {
  uint64_t state = 0x9E3779B97F4A7C15u ^ bytes.size();
  const auto mix = [&state](uint64_t word) {
    state = (state ^ word) * 0xD6E8FEB86659FD93u;
    state ^= state >> 32;
  };
  while (bytes.size() >= 8) {
    uint64_t word;
    std::memcpy(&word, bytes.data(), 8);
    mix(word);
    bytes.remove_prefix(8);
  }
  uint64_t word = 0;
  std::memcpy(&word, bytes.data(), bytes.size());
  mix(word);
  return static_cast<uint32_t>(state ^ (state >> 29));
}

}  // namespace

BytePairEncoder::BytePairEncoder(const std::vector<std::string>& tokens)
    : slots_(std::bit_ceil(tokens.size() * 2 + 1)), two_byte_ranks_(65536, kNoRank) {
  offsets_.reserve(tokens.size() + 1);
  offsets_.push_back(0);
  for (size_t rank = 0; rank < tokens.size(); ++rank) {
    const std::string& token = tokens[rank];
    blob_ += token;
    offsets_.push_back(static_cast<uint32_t>(blob_.size()));
    max_token_size_ = std::max(max_token_size_, token.size());
    const uint32_t hash = hash_bytes(token);
    size_t slot_idx = hash & (slots_.size() - 1);
    while (slots_[slot_idx].rank != kNoToken) slot_idx = (slot_idx + 1) & (slots_.size() - 1);
    slots_[slot_idx] = {hash, static_cast<int32_t>(rank)};
    if (token.size() == 2) {
      two_byte_ranks_[static_cast<uint8_t>(token[0]) * 256u + static_cast<uint8_t>(token[1])] =
          static_cast<int32_t>(rank);
    }
  }
}

std::string_view BytePairEncoder::bytes(int32_t rank) const {
  const auto idx = static_cast<size_t>(rank);
  return std::string_view(blob_).substr(offsets_[idx], offsets_[idx + 1] - offsets_[idx]);
}

int32_t BytePairEncoder::find(std::string_view key) const {
  if (key.size() > max_token_size_) return kNoToken;
  const uint32_t hash = hash_bytes(key);
  for (size_t slot_idx = hash & (slots_.size() - 1);;
       slot_idx = (slot_idx + 1) & (slots_.size() - 1)) {
    const Slot& slot = slots_[slot_idx];
    if (slot.rank == kNoToken) return kNoToken;
    if (slot.hash == hash && bytes(slot.rank) == key) return slot.rank;
  }
}

int32_t BytePairEncoder::pair_rank(std::string_view piece, size_t begin, size_t end) const {
  if (end - begin == 2) {
    return two_byte_ranks_[static_cast<uint8_t>(piece[begin]) * 256u +
                           static_cast<uint8_t>(piece[begin + 1])];
  }
  const int32_t rank = find(piece.substr(begin, end - begin));
  return rank == kNoToken ? kNoRank : rank;
}

void BytePairEncoder::encode_piece(std::string_view piece, std::vector<int32_t>& ids) const {
  if (piece.empty()) return;
  if (const int32_t rank = find(piece); rank != kNoToken) {
    ids.push_back(rank);
  } else if (piece.size() <= kMaxScannedPieceBytes) {
    merge_short(piece, ids);
  } else {
    merge_long(piece, ids);
  }
}

// parts[k] begins at begins[k]; ranks[k] is the rank of part k joined with part k + 1. The last
// entry of `begins` is the end of the piece.
void BytePairEncoder::merge_short(std::string_view piece, std::vector<int32_t>& ids) const {
  std::array<uint16_t, kMaxScannedPieceBytes + 2> begins;
  std::array<int32_t, kMaxScannedPieceBytes + 1> ranks;
  size_t num_parts = piece.size();
  for (size_t idx = 0; idx <= num_parts; ++idx) begins[idx] = static_cast<uint16_t>(idx);
  for (size_t idx = 0; idx + 1 < num_parts; ++idx) ranks[idx] = pair_rank(piece, idx, idx + 2);
  while (num_parts > 1) {
    size_t best = 0;
    for (size_t idx = 1; idx + 1 < num_parts; ++idx) {
      if (ranks[idx] < ranks[best]) best = idx;
    }
    if (ranks[best] == kNoRank) break;
    // Part best + 1 disappears: everything behind it moves down by one.
    for (size_t idx = best + 1; idx < num_parts; ++idx) begins[idx] = begins[idx + 1];
    for (size_t idx = best; idx + 2 < num_parts; ++idx) ranks[idx] = ranks[idx + 1];
    --num_parts;
    if (best + 1 < num_parts) ranks[best] = pair_rank(piece, begins[best], begins[best + 2]);
    if (best > 0) ranks[best - 1] = pair_rank(piece, begins[best - 1], begins[best + 1]);
  }
  for (size_t idx = 0; idx < num_parts; ++idx) {
    ids.push_back(find(piece.substr(begins[idx], begins[idx + 1] - begins[idx])));
  }
}

// O(n log n): a heap of candidate pairs over a linked list of parts. A part is named by the offset
// of its first byte; an entry is stale when either of its parts has changed since.
void BytePairEncoder::merge_long(std::string_view piece, std::vector<int32_t>& ids) const {
  TANDEM_CHECK(piece.size() < std::numeric_limits<uint32_t>::max(), "a piece of 4 GiB");
  constexpr uint32_t kNone = std::numeric_limits<uint32_t>::max();
  struct Part {
    uint32_t previous;
    uint32_t end;  // also the name of the next part; == previous part's marker `kNone` when merged
  };
  struct Pair {
    int32_t rank;
    uint32_t begin;
    uint32_t end;
    bool operator>(const Pair& other) const {
      return rank != other.rank ? rank > other.rank : begin > other.begin;
    }
  };
  const auto size = static_cast<uint32_t>(piece.size());
  std::vector<Part> parts(size);
  std::priority_queue<Pair, std::vector<Pair>, std::greater<>> pairs;
  const auto offer = [&](uint32_t begin, uint32_t end) {
    const int32_t rank = pair_rank(piece, begin, end);
    if (rank != kNoRank) pairs.push({rank, begin, end});
  };
  for (uint32_t idx = 0; idx < size; ++idx) {
    parts[idx] = {idx == 0 ? kNone : idx - 1, idx + 1};
    if (idx + 1 < size) offer(idx, idx + 2);
  }
  while (!pairs.empty()) {
    const Pair pair = pairs.top();
    pairs.pop();
    Part& left = parts[pair.begin];
    if (left.end == kNone || left.end == size || parts[left.end].end != pair.end) continue;
    parts[left.end].end = kNone;  // the right part is no more
    left.end = pair.end;
    if (pair.end < size) {
      parts[pair.end].previous = pair.begin;
      offer(pair.begin, parts[pair.end].end);
    }
    if (left.previous != kNone) offer(left.previous, pair.end);
  }
  for (uint32_t begin = 0; begin < size; begin = parts[begin].end) {
    ids.push_back(find(piece.substr(begin, parts[begin].end - begin)));
  }
}

}  // namespace tandem
