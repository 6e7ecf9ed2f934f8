// BF16 weights to the checkpoint's INT4 (model/spec.md §2.3), and back.
#pragma once

#include <cstdint>
#include <span>

#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"
#include "runtime/model/expert_tensors.h"

namespace tandem {

// Per group of 32 columns: s = bf16(max|w| / 7), q = clamp(round_half_even(w / s), -7, 7),
// u = q + 8. A group of zeros gets the scale 1.
//   weights [rows, cols], cols a multiple of 32; packed [rows, cols / 2]; scale [rows, cols / 32]
// False when a weight is not finite; the output is then unspecified.
bool encode_int4(MatrixView<const bf16> weights,
                 MatrixView<uint8_t> packed,
                 MatrixView<bf16> scale);

// out[c] = (u[row][c] - 8) * scale[row][c / 32] in float, exact: c < in_features.
void decode_int4_row(const Int4Matrix& matrix, int64_t row_idx, std::span<float> out);

}  // namespace tandem
