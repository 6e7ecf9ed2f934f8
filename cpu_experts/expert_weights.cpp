#include "cpu_experts/expert_weights.h"

#include <cstring>

#include "runtime/base/check.h"

namespace tandem::cpu_experts {
namespace {

// Bits of the code of column `col` (0..7) inside its row's word.
constexpr int shift_of(int64_t col) { return static_cast<int>(8 * (col % 4) + 4 * (col / 4)); }

// Four nibbles to the low nibbles of four bytes.
constexpr uint32_t spread(uint32_t nibbles) {
  const uint32_t pairs = (nibbles | nibbles << 8) & 0x00FF'00FFu;
  return (pairs | pairs << 4) & 0x0F0F'0F0Fu;
}

// Eight codes of a row, 4 bytes of the checkpoint, in the order of the layout.
constexpr uint32_t reorder_word(uint32_t codes) {
  return spread(codes & 0xFFFFu) | spread(codes >> 16) << 4;
}

// One block of 16 rows and up to 64 columns; `num_cols` is 32 or 64.
void pack_block(const Int4Matrix& matrix,
                int64_t row_begin,
                int64_t col_begin,
                int64_t num_cols,
                std::byte* block) {
  std::memset(block, 0, kBlockSizeBytes);
  for (int64_t row = 0; row < kBlockRows; ++row) {
    const uint8_t* codes = &matrix.packed(row_begin + row, col_begin / 2);
    const bf16* scales = &matrix.scale(row_begin + row, col_begin / kInt4GroupSize);
    for (int64_t group = 0; group < num_cols / kInt4GroupSize; ++group) {
      std::memcpy(block + (group * kBlockRows + row) * int64_t{sizeof(bf16)}, &scales[group],
                  sizeof(bf16));
    }
    for (int64_t vector = 0; vector < num_cols / kVectorCols; ++vector) {
      uint32_t word = 0;
      std::memcpy(&word, codes + vector * kVectorCols / 2, sizeof(word));
      word = reorder_word(word);
      std::memcpy(
          block + kScalesSizeBytes + vector * kVectorSizeBytes + row * int64_t{sizeof(word)}, &word,
          sizeof(word));
    }
  }
}

}  // namespace

void pack_matrix(const Int4Matrix& matrix,
                 const MatrixPart& part,
                 std::byte* packed,
                 int64_t row_block_stride_bytes) {
  TANDEM_CHECK(part.num_rows % kBlockRows == 0 && part.num_cols % kInt4GroupSize == 0,
               "a part must be whole row blocks and groups");
  for (int64_t row = 0; row < part.num_rows; row += kBlockRows) {
    std::byte* block = packed + row / kBlockRows * row_block_stride_bytes;
    for (int64_t col = 0; col < part.num_cols; col += kBlockCols, block += kBlockSizeBytes) {
      const int64_t num_cols = part.num_cols - col < kBlockCols ? part.num_cols - col : kBlockCols;
      pack_block(matrix, part.row_begin + row, part.col_begin + col, num_cols, block);
    }
  }
}

std::vector<float> unpack_matrix(std::span<const std::byte> packed,
                                 int64_t out_features,
                                 int64_t in_features,
                                 int64_t row_block_stride_bytes) {
  std::vector<float> weights(static_cast<size_t>(out_features * in_features));
  for (int64_t row = 0; row < out_features; ++row) {
    for (int64_t col = 0; col < in_features; ++col) {
      const std::byte* block = packed.data() + row / kBlockRows * row_block_stride_bytes +
                               col / kBlockCols * kBlockSizeBytes;
      bf16 scale;
      const int64_t group = col % kBlockCols / kInt4GroupSize;
      std::memcpy(&scale, block + (group * kBlockRows + row % kBlockRows) * int64_t{sizeof(bf16)},
                  sizeof(scale));
      uint32_t word = 0;
      const int64_t vector = col % kBlockCols / kVectorCols;
      std::memcpy(&word,
                  block + kScalesSizeBytes + vector * kVectorSizeBytes + row % kBlockRows * 4,
                  sizeof(word));
      const auto code = static_cast<int>(word >> shift_of(col % kVectorCols) & 0xFu);
      weights[static_cast<size_t>(row * in_features + col)] =
          static_cast<float>(code - 8) * scale.to_float();
    }
  }
  return weights;
}

}  // namespace tandem::cpu_experts
