// Small vocabularies made on the spot: single bytes, some merges, and K2's added tokens.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"

namespace tandem::tests {

inline std::string base64(std::string_view bytes) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  for (size_t begin = 0; begin < bytes.size(); begin += 3) {
    uint32_t bits = 0;
    for (size_t idx = 0; idx < 3; ++idx) {
      bits <<= 8;
      if (begin + idx < bytes.size()) bits |= static_cast<uint8_t>(bytes[begin + idx]);
    }
    const size_t num_digits = std::min<size_t>(3, bytes.size() - begin) + 1;
    for (size_t idx = 0; idx < 4; ++idx) {
      text += idx < num_digits ? kDigits[(bits >> (18 - 6 * idx)) & 63] : '=';
    }
  }
  return text;
}

// The lines of a tiktoken.model: the 256 bytes, then `merges`.
inline std::string tiktoken_lines(const std::vector<std::string>& merges) {
  std::string lines;
  int rank = 0;
  const auto add = [&](std::string_view bytes) {
    lines += base64(bytes);
    lines += ' ';
    lines += std::to_string(rank++);
    lines += '\n';
  };
  for (int byte = 0; byte < 256; ++byte) add(std::string(1, static_cast<char>(byte)));
  for (const std::string& merge : merges) add(merge);
  return lines;
}

// 256 bytes, then `merges`, then a block of 256 added tokens with the names of model/spec.md §4.4.
inline Tokenizer small_tokenizer(const std::vector<std::string>& merges = {}) {
  constexpr int32_t kNumAddedTokens = 256;
  const auto num_base = static_cast<int32_t>(256 + merges.size());
  return Tokenizer::parse(tiktoken_lines(merges), "", num_base + kNumAddedTokens, "small");
}

// Ids 0..255 are the bytes, 256..511 the added tokens.
inline constexpr int32_t kByteVocabSize = 512;
inline const Tokenizer& byte_tokenizer() {
  static const Tokenizer tokenizer = small_tokenizer();
  return tokenizer;
}

}  // namespace tandem::tests
