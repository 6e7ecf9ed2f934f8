// Checkpoint INT4 to the packed layout and, for tests, back.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cpu_experts/expert_layout.h"
#include "runtime/model/expert_tensors.h"

namespace tandem::cpu_experts {

// A part of a matrix: whole when a machine has one node, else a node's rows (gate, up) or columns
// (down).
struct MatrixPart {
  int64_t row_begin = 0, num_rows = 0;  // multiples of 16
  int64_t col_begin = 0, num_cols = 0;  // multiples of 32
};

// Packs `part` of `matrix` to `packed` [packed_size_bytes(part.num_rows, part.num_cols)]. Row block
// r lands at r * row_block_stride_bytes: gate and up interleave their row blocks so. `packed` and
// the stride are multiples of 16.
void pack_matrix(const Int4Matrix& matrix,
                 const MatrixPart& part,
                 std::byte* packed,
                 int64_t row_block_stride_bytes);

// Rows of gate and up, columns of down: all of moe_intermediate_size, or a node's share.
struct IntermediatePart {
  int64_t begin = 0, size = 0;  // multiples of 32
};

// Packs `part` of an expert to `packed` [expert_size_bytes(hidden_size, part.size)].
void pack_expert(const ExpertTensors& tensors, const IntermediatePart& part, std::byte* packed);

// The weights of a packed matrix, row-major [out_features, in_features]: the scalar reader of the
// layout.
std::vector<float> unpack_matrix(std::span<const std::byte> packed,
                                 int64_t out_features,
                                 int64_t in_features,
                                 int64_t row_block_stride_bytes);

}  // namespace tandem::cpu_experts
