#include "cpu_experts/expert_layout.h"

#include <catch2/catch_test_macros.hpp>
#include <cstring>
#include <random>
#include <vector>

#include "cpu_experts/expert_weights.h"
#include "tests/cpu_experts/expert_fixture.h"

namespace tandem::tests {
namespace {

using cpu_experts::kBlockSizeBytes;
using cpu_experts::num_col_blocks;

TEST_CASE("packing keeps every weight, for whole and half column blocks", "[cpu_experts]") {
  std::mt19937 random(1);
  for (const int64_t out_features : {16, 48, 160}) {
    for (const int64_t in_features : {32, 64, 96, 224}) {
      const OwnedInt4 matrix = random_int4(out_features, in_features, random);
      const int64_t stride = num_col_blocks(in_features) * kBlockSizeBytes;
      std::vector<std::byte> packed(cpu_experts::packed_size_bytes(out_features, in_features));
      cpu_experts::pack_matrix(matrix.view(), {0, out_features, 0, in_features}, packed.data(),
                               stride);
      const std::vector<float> weights =
          cpu_experts::unpack_matrix(packed, out_features, in_features, stride);
      int64_t num_wrong = 0;
      for (int64_t row = 0; row < out_features; ++row) {
        for (int64_t col = 0; col < in_features; ++col) {
          num_wrong +=
              weights[static_cast<size_t>(row * in_features + col)] != matrix.weight(row, col);
        }
      }
      CHECK(num_wrong == 0);
    }
  }
}

TEST_CASE("a part holds its own rows and columns", "[cpu_experts]") {
  std::mt19937 random(2);
  const OwnedInt4 matrix = random_int4(64, 160, random);
  const cpu_experts::MatrixPart part{
      .row_begin = 32, .num_rows = 32, .col_begin = 64, .num_cols = 96};
  const int64_t stride = num_col_blocks(96) * kBlockSizeBytes;
  std::vector<std::byte> packed(cpu_experts::packed_size_bytes(32, 96));
  cpu_experts::pack_matrix(matrix.view(), part, packed.data(), stride);
  const std::vector<float> weights = cpu_experts::unpack_matrix(packed, 32, 96, stride);
  int64_t num_wrong = 0;
  for (int64_t row = 0; row < 32; ++row) {
    for (int64_t col = 0; col < 96; ++col) {
      num_wrong +=
          weights[static_cast<size_t>(row * 96 + col)] != matrix.weight(32 + row, 64 + col);
    }
  }
  CHECK(num_wrong == 0);
}

TEST_CASE("the worked example of the format lands where the layout says", "[cpu_experts]") {
  // q = -7 -1 0 3 7 -8 5 2 are the checkpoint's bytes 71 B8 0F AD; with scale 1/64 in the first
  // group.
  OwnedInt4 matrix{.packed = std::vector<uint8_t>(16 * 16, 0x88),
                   .scale = std::vector<bf16>(16, bf16(0.015625f)),
                   .out_features = 16,
                   .in_features = 32};
  const uint8_t example[] = {0x71, 0xB8, 0x0F, 0xAD};
  std::memcpy(matrix.packed.data(), example, sizeof(example));
  std::vector<std::byte> packed(kBlockSizeBytes);
  cpu_experts::pack_matrix(matrix.view(), {0, 16, 0, 32}, packed.data(), kBlockSizeBytes);
  uint32_t word = 0;
  std::memcpy(&word, packed.data() + cpu_experts::kScalesSizeBytes, sizeof(word));
  // Columns 0 1 2 3 (codes 1 7 8 B) in the low nibbles, 4 5 6 7 (codes F 0 D A) in the high ones.
  CHECK(word == 0xAB'D8'07'F1u);
  uint16_t scale = 0;
  std::memcpy(&scale, packed.data(), sizeof(scale));
  CHECK(scale == bf16(0.015625f).bits);
}

TEST_CASE("K2's experts take 4.5 bits a weight", "[cpu_experts]") {
  const int64_t weights = int64_t{2048} * 7168;
  CHECK(cpu_experts::packed_size_bytes(2048, 7168) * 16 == weights * 9);
  CHECK(cpu_experts::packed_size_bytes(7168, 2048) * 16 == weights * 9);
}

}  // namespace
}  // namespace tandem::tests
