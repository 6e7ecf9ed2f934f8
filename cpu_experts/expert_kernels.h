// What an instruction set has to offer: two products over packed blocks (expert_layout.h). Plain
// data, no ISA in it.
#pragma once

#include <cstdint>

namespace tandem::cpu_experts {

// Rows of activations are padded with zeros to whole column blocks. Their element is BF16 where the
// kernels take pairs of BF16 (ExpertKernels::takes_bf16), else float.
struct GateUpCall {
  const uint8_t* weights = nullptr;  // row blocks of gate and up in turn: gate 0, up 0, gate 1, ...
  int64_t num_row_blocks = 0;        // pairs of them
  int64_t num_col_blocks = 0;
  const void* const* x = nullptr;  // [num_tokens] rows of num_col_blocks * 64 elements
  void* const* activated =
      nullptr;  // [num_tokens] out: silu(gate x) * (up x), num_row_blocks * 16 elements
  int32_t num_tokens = 0;
};

struct DownCall {
  const uint8_t* weights = nullptr;
  int64_t num_row_blocks = 0;
  int64_t num_col_blocks = 0;
  const void* const* x = nullptr;          // [num_tokens] rows of num_col_blocks * 64 elements
  const float* routing_weights = nullptr;  // [num_tokens]
  float* const* out = nullptr;  // [num_tokens] out[row] += routing_weight * (down x)[row]
  int32_t num_tokens = 0;
};

struct ExpertKernels {
  bool takes_bf16 = false;
  // Any num_tokens >= 1. A token's result has the same bits whatever tokens stand beside it.
  void (*gate_up)(const GateUpCall&) = nullptr;
  void (*down)(const DownCall&) = nullptr;
  // BF16 to the kernels' own element, and zeros behind: [num_values] to [num_padded].
  void (*prepare)(const uint16_t* values,
                  int64_t num_values,
                  int64_t num_padded,
                  void* out) = nullptr;
};

// One table a compile unit (kernels/moe_<isa>.cpp).
const ExpertKernels* scalar_kernels();
const ExpertKernels* avx2_kernels();
const ExpertKernels* avx512_kernels();
const ExpertKernels* avx512_bf16_kernels();

}  // namespace tandem::cpu_experts
