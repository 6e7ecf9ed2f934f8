// The packed form of one projection: what the kernels read strictly forwards and a GPU can read
// after a plain copy.
//
// Rows (out_features) in blocks of 16, columns (in_features) in blocks of 64; the last column block
// of a matrix whose in_features is an odd multiple of 32 is filled up with zero scales. Row blocks
// follow each other, inside a row block its column blocks. One block is 576 bytes, nine cache
// lines, 4.5 bits a weight:
//   bytes   0 ..  63   BF16 scales: of columns 0-31 for rows 0..15, then of columns 32-63 for rows
//   0..15 bytes  64 .. 575   eight vectors of 64 bytes, vector v for columns 8v .. 8v + 7
// Word `row` (32 bits) of a vector holds the offset-binary codes of its row: column 2p in bits 4p
// .. 4p + 3, column 2p + 1 in bits 16 + 4p .. 16 + 4p + 3 (p = 0..3). A shift by 4p thus leaves a
// pair of neighbours in the low nibbles of both halves.
#pragma once

#include <cstdint>

namespace tandem::cpu_experts {

inline constexpr int64_t kBlockRows = 16;
inline constexpr int64_t kBlockCols = 64;
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

}  // namespace tandem::cpu_experts
