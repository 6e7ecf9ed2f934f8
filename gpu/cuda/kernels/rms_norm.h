// RMSNorm of rows, with the residual sums that stand before it in a layer.
#pragma once

#include "gpu/cuda/kernels/rows.h"
#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

// x[t, :] += addends[0][t, :] + addends[1][t, :] + ... in this order (15), written back;
// out[t, :] = weight * x[t, :] / sqrt(mean(x[t, :]^2) + eps), rounded to BF16 once (2).
// Without addends x is only read; then it may have more columns than out (norm of a part).
struct RmsNormParams {
  MatrixView<float> x;   // [num_tokens, >= width]
  Addends addends;       // [num_tokens, width]
  const bf16* weight;    // [width]
  MatrixView<bf16> out;  // [num_tokens, width]
  float eps;
};
// A row's bits depend on that row alone.
void launch_rms_norm(const RmsNormParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
