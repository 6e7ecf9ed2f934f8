// Products of few tokens with a BF16 matrix, where reading the weights is all the work: plain, with
// SwiGLU behind gate|up, and one matrix a head (the absorbed products of MLA, equation 9).
#pragma once

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"

namespace tandem::gpu::cuda {

enum class LinearOutput {
  kFloat,     // out_float = x W^T
  kAddFloat,  // out_float += x W^T
  kBf16,      // out_bf16 = x W^T, rounded once
  kSwiglu,    // out_bf16 = silu(x W_gate^T) * (x W_up^T), rounded once; weight = gate rows, up rows
};

// The two paths differ in the last bits, as they add in different orders.
enum class LinearPath {
  kAuto,         // kFma for up to 4 tokens, else kTensorCores
  kFma,          // up to 4 tokens
  kTensorCores,  // any number of tokens; reads the weights once per 16
};

// For head h (0 alone unless num_heads is given): x, weight and out shifted by h * their head
// stride. All rows start at multiples of 16 bytes; in_features is a multiple of 8.
struct SkinnyLinearParams {
  MatrixView<const bf16> x;       // [num_tokens, in_features] of head 0
  MatrixView<const bf16> weight;  // [out_features, in_features] of head 0
  LinearOutput output = LinearOutput::kFloat;
  MatrixView<float> out_float = {};  // [num_tokens, out_features] of head 0
  MatrixView<bf16> out_bf16 = {};    // as out_float; kSwiglu: [num_tokens, out_features / 2]
  int32_t num_heads = 1;
  int64_t x_head_stride = 0;  // elements
  int64_t weight_head_stride = 0;
  int64_t out_head_stride = 0;
};
// FP32 sums. A row of the result depends on its row of x, on in_features and on the path alone: not
// on the number of tokens within a path.
void launch_skinny_linear(const SkinnyLinearParams& params, LinearPath path, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
