// What an instruction set has to offer: the two products of an expert over packed blocks
// (expert_layout.h). Plain data, no ISA in it.
//
// Activations are rows of records, one record for each column block of 64, in forms that belong to
// the kernels and are made by them: `prepare` makes the layer's input, `gate_up` the input of down.
// Columns behind the last one count as zero.
#pragma once

#include <cstdint>

namespace tandem::cpu_experts {

struct GateUpCall {
  const uint8_t* weights = nullptr;  // row blocks of gate and up in turn: gate 0, up 0, gate 1, ...
  int64_t num_row_blocks = 0;        // pairs of them; even, so that whole groups come out
  int64_t num_col_blocks = 0;
  const void* const* x = nullptr;    // [num_tokens] rows of num_col_blocks records
  void* const* activated = nullptr;  // [num_tokens] out: silu(gate x) * (up x), rows of records
  int64_t first_row = 0;             // of the call's rows in `activated`; a multiple of 32
  int32_t num_tokens = 0;
  bool ends_half_record = false;  // the call's last group is the row's last: zeros go behind it
};

struct DownCall {
  const uint8_t* weights = nullptr;
  int64_t num_row_blocks = 0;
  int64_t num_col_blocks = 0;
  const void* const* x = nullptr;          // [num_tokens] rows of num_col_blocks records
  const float* routing_weights = nullptr;  // [num_tokens]
  float* const* out = nullptr;  // [num_tokens] out[row] += routing_weight * (down x)[row]
  int32_t num_tokens = 0;
};

struct ExpertKernels {
  int64_t input_record_size_bytes = 0;
  int64_t activated_record_size_bytes = 0;
  // What a product of more than few_tokens reads at once; fewer rows take longer each.
  int64_t tile_row_blocks = 1;
  int32_t few_tokens = 0;
  // Any num_tokens >= 1. A token's result has the same bits whatever tokens stand beside it.
  void (*gate_up)(const GateUpCall&) = nullptr;
  void (*down)(const DownCall&) = nullptr;
  // [num_values] BF16, a multiple of 32, to a row of the layer's input.
  void (*prepare)(const uint16_t* values, int64_t num_values, void* row) = nullptr;
  // As `down`, over rows of the layer's input: what gate and up do before they are joined. A step
  // has no use for it; tests judge the one product by it.
  void (*input_product)(const DownCall&) = nullptr;
};

// Tables of the compile units (kernels/moe_<isa>.cpp). Activations as 16-bit words
// keep BF16's accuracy; bytes are lossy, 0.8 % of a layer. See kernels/activations-inl.h.
struct IntegerKernels {
  ExpertKernels words;
  ExpertKernels bytes;
};
const IntegerKernels* scalar_kernels();
const IntegerKernels* avx2_kernels();
const IntegerKernels* avx_vnni_kernels();
const IntegerKernels* avx512_kernels();
const IntegerKernels* avx512_vnni_kernels();
const ExpertKernels* avx512_bf16_kernels();
const ExpertKernels* amx_bf16_kernels();

}  // namespace tandem::cpu_experts
