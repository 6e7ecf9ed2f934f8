#include "gpu/cuda/linear.h"

#include <utility>

#include "gpu/cuda/kernels/skinny_linear.h"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

CudaLinear::CudaLinear(DeviceMemory memory, int64_t out_features_in, int64_t in_features_in)
    : memory_(std::move(memory)) {
  out_features = out_features_in;
  in_features = in_features_in;
}

void multiply(CublasMatmul& matmul, const MatmulParams& params, cudaStream_t stream) {
  if (params.x.rows > kMaxSkinnyTokens && matmul.run(params, stream)) return;
  SkinnyLinearParams skinny{.x = params.x,
                            .weight = params.weight,
                            .num_heads = params.num_batches,
                            .x_head_stride = params.x_batch_stride,
                            .weight_head_stride = params.weight_batch_stride,
                            .out_head_stride = params.out_batch_stride};
  if (params.kind == MatmulOut::kBf16) {
    skinny.output = LinearOutput::kBf16;
    skinny.out_bf16 = {static_cast<bf16*>(params.out), params.x.rows, params.weight.rows,
                       params.out_row_stride};
  } else {
    skinny.output =
        params.kind == MatmulOut::kFloat ? LinearOutput::kFloat : LinearOutput::kAddFloat;
    skinny.out_float = {static_cast<float*>(params.out), params.x.rows, params.weight.rows,
                        params.out_row_stride};
  }
  launch_skinny_linear(skinny, LinearPath::kAuto, stream);
}

}  // namespace tandem::gpu::cuda
