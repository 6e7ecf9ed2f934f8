// Work on rows without products: embed, gather_rows, add, swiglu. Any width, any row stride.
// Pointers are device memory; a launch only enqueues and may stand in a stream capture.
#pragma once

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

// residual[t, :] = table[token_ids[t], :]; ids within the table (1)
struct EmbedParams {
  const int32_t* token_ids;      // [num_tokens]
  MatrixView<const bf16> table;  // [vocab_size, hidden_size]
  MatrixView<float> residual;    // [num_tokens, hidden_size]
};
void launch_embed(const EmbedParams& params, cudaStream_t stream);

// out[i, :] = x[row_idx[i], :]
struct GatherRowsParams {
  const int32_t* row_idx;  // [out.rows]
  MatrixView<const float> x;
  MatrixView<float> out;
};
void launch_gather_rows(const GatherRowsParams& params, cudaStream_t stream);

// Matrices that are added to another one after the other, in device memory or in memory of the host
// that the device sees.
inline constexpr int kMaxAddends = 3;
struct Addends {
  MatrixView<const float> matrices[kMaxAddends];
  int32_t num = 0;
};

// x += addends[0] += addends[1] ... (15)
struct AddParams {
  Addends addends;
  MatrixView<float> x;
};
void launch_add(const AddParams& params, cudaStream_t stream);

// out = silu(gate_up[:, :I]) * gate_up[:, I:], rounded once (11)
struct SwigluParams {
  MatrixView<const float> gate_up;  // [num_tokens, 2 * I]
  MatrixView<bf16> out;             // [num_tokens, I]
};
void launch_swiglu(const SwigluParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
