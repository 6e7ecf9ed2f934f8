#include "tests/runtime/tokenizer/vocabulary_fixture.h"

#include <array>
#include <bit>
#include <cstdlib>
#include <fstream>
#include <iterator>

namespace tandem::tests {
namespace {

// FIPS 180-4: the constants are the fractional parts of cube roots (rounds) and square roots.
constexpr std::array<uint32_t, 64> kRoundConstants = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

void sha256_block(const uint8_t* block, std::array<uint32_t, 8>& hash) {
  std::array<uint32_t, 64> words;
  for (size_t idx = 0; idx < 16; ++idx) {
    words[idx] = uint32_t{block[4 * idx]} << 24 | uint32_t{block[4 * idx + 1]} << 16 |
                 uint32_t{block[4 * idx + 2]} << 8 | uint32_t{block[4 * idx + 3]};
  }
  for (size_t idx = 16; idx < 64; ++idx) {
    const uint32_t a = words[idx - 15];
    const uint32_t b = words[idx - 2];
    words[idx] = words[idx - 16] + words[idx - 7] +
                 (std::rotr(a, 7) ^ std::rotr(a, 18) ^ (a >> 3)) +
                 (std::rotr(b, 17) ^ std::rotr(b, 19) ^ (b >> 10));
  }
  std::array<uint32_t, 8> s = hash;
  for (size_t idx = 0; idx < 64; ++idx) {
    const uint32_t t1 = s[7] + (std::rotr(s[4], 6) ^ std::rotr(s[4], 11) ^ std::rotr(s[4], 25)) +
                        ((s[4] & s[5]) ^ (~s[4] & s[6])) + kRoundConstants[idx] + words[idx];
    const uint32_t t2 = (std::rotr(s[0], 2) ^ std::rotr(s[0], 13) ^ std::rotr(s[0], 22)) +
                        ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
    s = {t1 + t2, s[0], s[1], s[2], s[3] + t1, s[4], s[5], s[6]};
  }
  for (size_t idx = 0; idx < 8; ++idx) hash[idx] += s[idx];
}

}  // namespace

std::string sha256_hex(std::string_view bytes) {
  std::array<uint32_t, 8> hash = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                  0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::vector<uint8_t> padded(bytes.begin(), bytes.end());
  padded.push_back(0x80);
  while (padded.size() % 64 != 56) padded.push_back(0);
  const uint64_t num_bits = bytes.size() * 8;
  for (int shift = 56; shift >= 0; shift -= 8) {
    padded.push_back(static_cast<uint8_t>(num_bits >> shift));
  }
  for (size_t begin = 0; begin < padded.size(); begin += 64) {
    sha256_block(padded.data() + begin, hash);
  }
  std::string hex;
  for (const uint32_t word : hash) {
    for (int shift = 28; shift >= 0; shift -= 4) hex += "0123456789abcdef"[(word >> shift) & 15];
  }
  return hex;
}

std::string read_text_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::optional<std::filesystem::path> shared_file(std::string_view file) {
  const char* dir = std::getenv("TANDEM_SHARED_DIR");
  const std::filesystem::path base =
      dir != nullptr ? std::filesystem::path(dir)
                     : std::filesystem::path(TANDEM_SOURCE_DIR) / ".." / "shared";
  std::error_code ignored;
  if (!std::filesystem::exists(base / file, ignored)) return std::nullopt;
  return base / file;
}

const Tokenizer* real_tokenizer() {
  static const std::optional<Tokenizer> tokenizer = []() -> std::optional<Tokenizer> {
    const auto path = shared_file("model/tiktoken.model");
    if (!path.has_value()) return std::nullopt;
    return Tokenizer::load(path->parent_path(), 163840);
  }();
  return tokenizer.has_value() ? &*tokenizer : nullptr;
}

std::string python_list(const std::vector<int32_t>& ids) {
  std::string text = "[";
  for (const int32_t id : ids) {
    if (text.size() > 1) text += ", ";
    text += std::to_string(id);
  }
  return text + "]";
}

}  // namespace tandem::tests
