#include "runtime/model/int4_encoder.h"

#include <algorithm>
#include <array>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace tandem {
namespace {

// One row of INT4 with scales of its own.
struct Row {
  std::vector<uint8_t> packed;
  std::vector<bf16> scale;
  [[nodiscard]] Int4Matrix matrix() const {
    return {{packed.data(), 1, static_cast<int64_t>(packed.size())},
            {scale.data(), 1, static_cast<int64_t>(scale.size())}};
  }
  [[nodiscard]] std::vector<float> decoded() const {
    std::vector<float> values(2 * packed.size());
    decode_int4_row(matrix(), 0, values);
    return values;
  }
};

bool encode(const std::vector<bf16>& weights, Row& row) {
  const auto cols = static_cast<int64_t>(weights.size());
  row.packed.assign(weights.size() / 2, 0xcc);
  row.scale.assign(weights.size() / 32, bf16(-1.0f));
  return encode_int4({weights.data(), 1, cols}, {row.packed.data(), 1, cols / 2},
                     {row.scale.data(), 1, cols / 32});
}

TEST_CASE("the specification's worked example decodes to its values", "[int4]") {
  // Word 0xAD0FB871, scale 1/64: section 2.3.
  Row row;
  row.packed.assign(16, 0x88);  // zeros behind it
  const std::array<uint8_t, 4> bytes = {0x71, 0xB8, 0x0F, 0xAD};
  std::ranges::copy(bytes, row.packed.begin());
  uint32_t word = 0;
  std::memcpy(&word, row.packed.data(), sizeof(word));
  CHECK(word == 0xAD0FB871u);
  CHECK(static_cast<int32_t>(word) == -1391478671);
  row.scale = {bf16(0.015625f)};
  const std::vector<float> expected = {-0.109375f, -0.015625f, 0.0f,      0.046875f,
                                       0.109375f,  -0.125f,    0.078125f, 0.03125f};
  std::vector<float> decoded = row.decoded();
  CHECK(std::vector(decoded.begin(), decoded.begin() + 8) == expected);
  CHECK(std::all_of(decoded.begin() + 8, decoded.end(), [](float v) { return v == 0.0f; }));
}

TEST_CASE("all 16 codes decode in both nibbles, with every scale", "[int4]") {
  for (const float scale : {1.0f, 0.0078125f, -2.5f, 3.0e-39f, 1.0e30f}) {
    Row row;
    for (int code = 0; code < 16; ++code) {
      row.packed.push_back(static_cast<uint8_t>(code | (15 - code) << 4));
    }
    row.scale = {bf16(scale)};
    const std::vector<float> decoded = row.decoded();
    for (int code = 0; code < 16; ++code) {
      CHECK(decoded[2 * code] == static_cast<float>(code - 8) * row.scale[0].to_float());
      CHECK(decoded[2 * code + 1] == static_cast<float>(7 - code) * row.scale[0].to_float());
    }
  }
}

TEST_CASE("a group's scale belongs to its 32 columns", "[int4]") {
  Row row;
  row.packed.assign(48, 0x99);  // q = 1 everywhere
  row.scale = {bf16(1.0f), bf16(2.0f), bf16(4.0f)};
  const std::vector<float> decoded = row.decoded();
  for (size_t col_idx = 0; col_idx < decoded.size(); ++col_idx) {
    CHECK(decoded[col_idx] == (col_idx < 32 ? 1.0f : col_idx < 64 ? 2.0f : 4.0f));
  }
}

// Section 2.3's encoder, one weight, with the library's own rounding.
int naive_code(float weight, float scale) {
  return std::clamp(static_cast<int>(std::nearbyint(weight / scale)), -7, 7);
}

TEST_CASE("the encoder follows the formula for every BF16 magnitude", "[int4]") {
  std::mt19937 random(7);
  // Exponents from denormal to near the largest; within a group they differ by up to 2^6.
  for (int exponent = -133; exponent <= 126; ++exponent) {
    std::vector<bf16> weights;
    for (int col_idx = 0; col_idx < 96; ++col_idx) {
      const float mantissa = std::uniform_real_distribution<float>(-2.0f, 2.0f)(random);
      const int shift = std::uniform_int_distribution<int>(-6, 0)(random);
      weights.emplace_back(std::ldexp(mantissa, exponent + shift));
    }
    Row row;
    REQUIRE(encode(weights, row));
    for (size_t group_idx = 0; group_idx < 3; ++group_idx) {
      float max = 0.0f;
      for (size_t col_idx = 0; col_idx < 32; ++col_idx) {
        max = std::max(max, std::abs(weights[32 * group_idx + col_idx].to_float()));
      }
      bf16 scale(max / 7.0f);
      if (scale.bits == 0) scale = bf16(1.0f);
      INFO("exponent " << exponent);
      REQUIRE(row.scale[group_idx] == scale);
      for (size_t idx = 32 * group_idx; idx < 32 * group_idx + 32; ++idx) {
        const int nibble = row.packed[idx / 2] >> (idx % 2 * 4) & 15;
        REQUIRE(nibble - 8 == naive_code(weights[idx].to_float(), scale.to_float()));
      }
    }
  }
}

TEST_CASE("halves round to even codes", "[int4]") {
  std::vector<bf16> weights(32, bf16(0.0f));
  weights[0] = bf16(7.0f);  // scale 1
  const std::array halves = {0.5f, 1.5f, 2.5f, 3.5f, 4.5f, 5.5f, 6.5f, -0.5f, -1.5f, -2.5f, -6.5f};
  const std::array expected = {0.0f, 2.0f, 2.0f, 4.0f, 4.0f, 6.0f, 6.0f, 0.0f, -2.0f, -2.0f, -6.0f};
  for (size_t idx = 0; idx < halves.size(); ++idx) weights[idx + 1] = bf16(halves[idx]);
  Row row;
  REQUIRE(encode(weights, row));
  CHECK(row.scale[0].to_float() == 1.0f);
  const std::vector<float> decoded = row.decoded();
  for (size_t idx = 0; idx < halves.size(); ++idx) CHECK(decoded[idx + 1] == expected[idx]);
}

TEST_CASE("what was INT4 with the code 7 in every group survives encoding unchanged", "[int4]") {
  std::mt19937 random(8);
  Row original;
  for (int group_idx = 0; group_idx < 64; ++group_idx) {
    original.scale.push_back(bf16(std::ldexp(1.0f, group_idx - 32)));  // exact in BF16: q * scale
    for (int byte_idx = 0; byte_idx < 16; ++byte_idx) {
      const auto low = byte_idx == 3 ? 15 : 1 + random() % 15;
      original.packed.push_back(static_cast<uint8_t>(low | (1 + random() % 15) << 4));
    }
  }
  std::vector<bf16> weights;
  for (const float value : original.decoded()) weights.emplace_back(value);
  Row row;
  REQUIRE(encode(weights, row));
  CHECK(row.packed == original.packed);
  CHECK(row.scale == original.scale);
}

TEST_CASE("a group of zeros decodes to zeros", "[int4]") {
  Row row;
  REQUIRE(encode(std::vector<bf16>(64, bf16(-0.0f)), row));
  CHECK(row.scale[0].to_float() > 0.0f);
  for (const float value : row.decoded()) CHECK(value == 0.0f);
}

TEST_CASE("a weight that is not finite is refused wherever it stands", "[int4]") {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    for (size_t place = 0; place < 64; ++place) {
      std::vector<bf16> weights(64, bf16(1.0f));
      weights[place] = bf16(bad);
      Row row;
      CHECK_FALSE(encode(weights, row));
    }
  }
}

}  // namespace
}  // namespace tandem
