// The packed form of one projection of an expert, in memory: what the CPU kernels read strictly
// forwards and a GPU can read after a plain copy.
//
// Rows (out_features) in blocks of 16, columns (in_features) in blocks of 64; the last column block
// of a matrix whose in_features is an odd multiple of 32 is filled up with zero scales. Row blocks
// follow each other, inside a row block its column blocks. One block is 576 bytes, nine cache
// lines, 4.5 bits a weight:
//
//   bytes   0 ..  63   BF16 scales: of columns 0-31 for rows 0..15, then of columns 32-63 for
//                      rows 0..15
//   bytes  64 .. 575   eight vectors of 64 bytes, vector v for columns 8v .. 8v + 7
//
// A vector holds one 32-bit word a row, rows ascending. Byte j (0..3) of a word holds the
// offset-binary code (0..15 for -8..7) of column 8v + j in its low nibble and that of column
// 8v + 4 + j in its high nibble. So `word & 0x0F0F0F0F` is four neighbouring codes as bytes, what
// a dot product of bytes takes, and `word >> 4 & 0x0F0F0F0F` the next four; the nibbles at bits 4p
// and 16 + 4p (p = 0..3) are two columns of a BF16 pair, two columns apart.
#pragma once

#include <cstdint>

namespace tandem::expert_layout {

inline constexpr int64_t kBlockRows = 16;
inline constexpr int64_t kBlockCols = 64;
inline constexpr int64_t kGroupCols = 32;  // share a scale
inline constexpr int64_t kVectorCols = 8;
inline constexpr int64_t kVectorSizeBytes = 64;
inline constexpr int64_t kScalesSizeBytes = 64;
inline constexpr int64_t kBlockSizeBytes = kScalesSizeBytes + kBlockRows * kBlockCols / 2;
static_assert(kBlockSizeBytes == 576);

constexpr int64_t num_col_blocks(int64_t in_features) {
  return (in_features + kBlockCols - 1) / kBlockCols;
}
constexpr int64_t packed_size_bytes(int64_t out_features, int64_t in_features) {
  return out_features / kBlockRows * num_col_blocks(in_features) * kBlockSizeBytes;
}

// An expert: the row blocks of gate_proj and up_proj in turn, then down_proj.
constexpr int64_t gate_up_size_bytes(int64_t hidden_size, int64_t moe_intermediate_size) {
  return 2 * packed_size_bytes(moe_intermediate_size, hidden_size);
}
constexpr int64_t expert_size_bytes(int64_t hidden_size, int64_t moe_intermediate_size) {
  return gate_up_size_bytes(hidden_size, moe_intermediate_size) +
         packed_size_bytes(hidden_size, moe_intermediate_size);
}

}  // namespace tandem::expert_layout
