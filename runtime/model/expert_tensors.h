// One routed expert's projection in the checkpoint's own INT4 form (model/spec.md §2.3).
#pragma once

#include <cstdint>

#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem {

inline constexpr int kInt4GroupSize = 32;

// W[r][c] = (u[r][c] - 8) * scale[r][c / 32], u offset-binary nibbles.
struct Int4Matrix {
  MatrixView<const uint8_t> packed;  // [out, in / 2]; byte b: element 2b low nibble, 2b + 1 high
  MatrixView<const bf16> scale;      // [out, in / 32]
  [[nodiscard]] int64_t out_features() const { return packed.rows; }
  [[nodiscard]] int64_t in_features() const { return packed.cols * 2; }
};

struct ExpertTensors {
  Int4Matrix gate_proj;  // [moe_intermediate_size, hidden_size]
  Int4Matrix up_proj;    // [moe_intermediate_size, hidden_size]
  Int4Matrix down_proj;  // [hidden_size, moe_intermediate_size]
};

}  // namespace tandem
