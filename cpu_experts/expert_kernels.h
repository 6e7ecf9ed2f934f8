// What an instruction set has to offer: the two products of an expert over packed blocks
// (expert_layout.h). Plain data, no ISA in it.
//
// Activations are records, one for each group of 32 columns of a token, two for each column block,
// in forms that belong to the kernels and are made by them: `prepare` makes the layer's input, rows
// of records, `gate_up` the input of down. Inside an expert they stand [group][token]: a tile of
// tokens is read behind one pointer. Columns behind the last one count as zero.
#pragma once

#include <cstdint>

namespace tandem::cpu_experts {

// The most tokens whose input is gathered at once.
inline constexpr int32_t kMaxPassTokens = 64;

// Behind the last of a call's [group][token] records as many bytes may be read; whatever stands
// there counts for nothing.
inline constexpr int64_t kReadBehindBytes = 1024;

struct GateUpCall {
  const uint8_t* weights = nullptr;  // row blocks of gate and up in turn: gate 0, up 0, gate 1, ...
  int64_t num_row_blocks = 0;        // pairs of them; even, so that whole groups come out
  int64_t num_col_blocks = 0;
  const void* const* x = nullptr;  // [num_tokens] rows of 2 * num_col_blocks input records
  void* gathered = nullptr;        // scratch: as many records, of at most kMaxPassTokens tokens,
                                   // and kReadBehindBytes
  void* activated = nullptr;       // out: silu(gate x) * (up x), records [group][num_tokens]
  int64_t first_row = 0;           // of the call's rows in `activated`; a multiple of 32
  int32_t num_tokens = 0;
  bool ends_half_block = false;  // the call's last group is the row's last: zeros go behind it
};

struct DownCall {
  const uint8_t* weights = nullptr;
  int64_t num_row_blocks = 0;
  int64_t num_col_blocks = 0;
  const void* x = nullptr;  // records [2 * num_col_blocks][num_tokens], and kReadBehindBytes
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
  // As `down`, over records of the layer's input: what gate and up do before they are joined. A
  // step has no use for it; tests judge the one product by it.
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
const IntegerKernels* avx512_vnni_zen4_kernels();  // the same in tiles for a Zen 4
const ExpertKernels* avx512_bf16_kernels();

// Activations are BF16; weights as they are, or rounded to BF16, 0.25 % of a layer and up to 1.4
// times as fast.
struct TileKernels {
  ExpertKernels exact;
  ExpertKernels rounded;
};
const TileKernels* amx_bf16_kernels();

}  // namespace tandem::cpu_experts
