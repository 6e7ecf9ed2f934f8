// The kernels of one instruction set as a table of functions. Plain types only: this header is
// included by files that are compiled with the instruction set's own flags.
//
// Panels, the layout of every matrix that is multiplied from the right:
//   panel p holds rows (output features, or keys) 16p .. 16p+15 of a matrix [rows, cols] as
//   [ceil(cols / 2)][16][2] BF16, zero where the matrix ends.
// A 64-byte line is one pair of columns of 16 rows: what one dot-product instruction takes.
//
// Order of summation: each element of a product is one chain of fused additions over ascending
// columns (over ascending pairs with BF16 dot products, over sums of 32 with AMX), whatever the
// number of rows, the tile or the thread. A result therefore depends on its own row of x alone, to
// the bit.
#pragma once

#include <cstdint>

namespace tandem::gpu::host {

inline constexpr int kPanelRows = 16;

// out[r, 16p + lane] (+)= sum_k x[r, k] * panel p[k, lane], for all rows and panels.
template <typename X>
struct Gemm {
  const X* x;  // [num_rows, >= num_k], BF16 as uint16_t
  int64_t x_stride;
  int64_t num_rows;
  const uint16_t* panels;
  int64_t panel_stride;  // elements from one panel to the next
  int64_t num_panels;
  int64_t num_k;  // BF16 x: even, zero padded; where it continues chains, they hold multiples of 32
  float* out;     // [num_rows, 16 * num_panels]
  int64_t out_stride;
  bool accumulate;  // continue the chains that `out` holds
};

// One row of scores against a block of keys, online softmax in the order of positions.
struct SoftmaxBlock {
  float* scores;  // [64] in: q k; out: exp(scale * q k - maximum), 0 from num_valid on
  int num_valid;
  float scale;
  float* maximum;  // running maximum and sum of the row
  float* sum;
};

struct Kernels {
  const char* isa_name;
  int max_rows_a_tile;  // rows that share one pass over the panels
  int block_rows;       // rows and columns of x that stay in the L2 cache, and panels beside them
  int block_cols;
  int block_panels;

  void (*gemm_f32)(const Gemm<float>& gemm);
  void (*gemm_bf16)(const Gemm<uint16_t>& gemm);  // null without BF16 dot products

  // Rows [0, num_rows <= 16) of src to one panel.
  void (*pack_panel)(
      const uint16_t* src, int64_t row_stride, int num_rows, int64_t num_cols, uint16_t* panel);
  // Pairs two rows (even, odd; odd may be null: zero) element by element, 16 to a panel:
  // the panels of a transposed matrix. Writes ceil(num_cols / 16) lines, panel_stride apart.
  void (*pack_row_pair)(const uint16_t* even,
                        const uint16_t* odd,
                        int64_t num_cols,
                        uint16_t* panels,
                        int64_t panel_stride);

  void (*widen)(const uint16_t* x, int64_t num, float* out);
  void (*narrow)(const float* x, int64_t num, uint16_t* out);  // to nearest, ties to even
  void (*scale)(float* x, int64_t num, float factor);
  void (*add)(const float* addend, int64_t num, float* out);
  // out = weight * x / sqrt(mean(x^2) + eps), rounded to BF16 once.
  void (*rms_norm)(const float* x, const uint16_t* weight, float eps, int64_t num, uint16_t* out);
  // out = gate / (1 + exp(-gate)) * up
  void (*swiglu)(const float* gate, const float* up, int64_t num, uint16_t* out);
  // Returns the factor for what was summed under the old maximum.
  float (*softmax_block)(const SoftmaxBlock& block);
};

// Each is defined in kernels/kernels_<isa>.cpp; null where the compiler has no such target.
const Kernels* scalar_kernels();
const Kernels* avx2_kernels();
const Kernels* avx512_kernels();
const Kernels* avx512_bf16_kernels();
const Kernels* amx_bf16_kernels();

}  // namespace tandem::gpu::host
