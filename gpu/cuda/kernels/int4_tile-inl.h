// Packed INT4 blocks as operand A of an mma.
//
// A block is 16 rows by 64 columns; lane (g, t), g = lane / 4, t = lane % 4, takes of a group of 32
// columns rows 2g and 2g + 1 of vector t, 8 bytes, so that a warp reads a group's codes in one
// piece. Fragment rows g and g + 8 therefore are rows 2g and 2g + 1. A word's nibbles at bits 4p
// and 4p + 16 are a BF16 pair, and the mma's order of columns is free if B keeps to it:
//   p = 0: columns 0, 2    p = 1: columns 4, 6    p = 2: columns 1, 3    p = 3: columns 5, 7
#pragma once

#include <cstddef>

#include "gpu/cuda/simt/host_device.h"
#include "runtime/model/expert_layout.h"

namespace tandem::gpu::cuda {

namespace layout = expert_layout;

TANDEM_HOST_DEVICE constexpr int64_t num_col_blocks(int64_t in_features) {
  return (in_features + layout::kBlockCols - 1) / layout::kBlockCols;
}
// Bytes of a matrix of `num_row_blocks` row blocks; also where the next one begins.
TANDEM_HOST_DEVICE constexpr int64_t row_blocks_size_bytes(int64_t num_row_blocks,
                                                           int64_t in_features) {
  return num_row_blocks * num_col_blocks(in_features) * layout::kBlockSizeBytes;
}
// In a block: the lane's two words and its two scales of group `group`.
TANDEM_HOST_DEVICE constexpr int64_t codes_offset(int group, int lane) {
  return layout::kScalesSizeBytes + (4 * group + lane % 4) * layout::kVectorSizeBytes +
         lane / 4 * 8;
}
TANDEM_HOST_DEVICE constexpr int64_t scales_offset(int group, int lane) {
  return group * (layout::kScalesSizeBytes / 2) + lane / 4 * 4;
}

// What a lane holds of a block.
struct Int4Lane {
  uint32_t words[2][2];  // [group][row 2g, 2g + 1]
  uint32_t scales[2];    // [group] a BF16 pair for both rows
};

template <typename Cta>
TANDEM_DEVICE Int4Lane load_int4(const Cta& cta, const std::byte* block) {
  Int4Lane lane;
  TANDEM_UNROLL
  for (int group = 0; group < 2; ++group) {
    const simt::Words2 words = cta.load8_streamed(block + codes_offset(group, cta.lane_idx()));
    lane.words[group][0] = words.w[0];
    lane.words[group][1] = words.w[1];
    lane.scales[group] = cta.load4_streamed(block + scales_offset(group, cta.lane_idx()));
  }
  return lane;
}

// Codes p of a word as BF16 numbers -8 .. 7: 0x4300 is 128, whose last four bits count ones.
TANDEM_DEVICE inline uint32_t code_pair(uint32_t word, int p) {
  return simt::add_to_pair((word >> (4 * p) & 0x000f000fu) | 0x43004300u, -136.0f);
}

// Eight neighbouring values of x in the order of the codes.
struct Int4Operand {
  uint32_t pairs[4];
};
TANDEM_DEVICE inline Int4Operand order_as_codes(const simt::Words4& x) {
  return {{simt::low_halves(x.w[0], x.w[1]), simt::low_halves(x.w[2], x.w[3]),
           simt::high_halves(x.w[0], x.w[1]), simt::high_halves(x.w[2], x.w[3])}};
}

// sums [16 rows, 8 tokens] += scale * (codes of the group) x^T. The codes' sum is FP32, the scale
// comes to it afterwards: no weight is rounded.
template <typename Cta>
TANDEM_DEVICE void multiply_group(
    const Cta& cta, const Int4Lane& lane, int group, const Int4Operand& x, float (&sums)[4]) {
  float products[4] = {};
  TANDEM_UNROLL
  for (int step = 0; step < 2; ++step) {
    const uint32_t a[4] = {code_pair(lane.words[group][0], 2 * step),
                           code_pair(lane.words[group][1], 2 * step),
                           code_pair(lane.words[group][0], 2 * step + 1),
                           code_pair(lane.words[group][1], 2 * step + 1)};
    const uint32_t b[2] = {x.pairs[2 * step], x.pairs[2 * step + 1]};
    cta.mma(products, a, b);
  }
  const float upper = simt::low_of(lane.scales[group]);
  const float lower = simt::high_of(lane.scales[group]);
  sums[0] = simt::multiply_add(upper, products[0], sums[0]);
  sums[1] = simt::multiply_add(upper, products[1], sums[1]);
  sums[2] = simt::multiply_add(lower, products[2], sums[2]);
  sums[3] = simt::multiply_add(lower, products[3], sums[3]);
}

}  // namespace tandem::gpu::cuda
