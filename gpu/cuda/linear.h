// out = x W^T on a card: our kernels for few tokens, cuBLASLt for more than kMaxSkinnyTokens.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/cuda/cublas_matmul.h"
#include "gpu/cuda/device_memory.h"
#include "gpu/ops.h"

namespace tandem::gpu::cuda {

// Rows of the tensor cores' smallest tile: up to here reading the weights is all the work.
inline constexpr int64_t kMaxSkinnyTokens = 16;

// Row-major as in the checkpoint.
class CudaLinear : public LinearWeight {
 public:
  CudaLinear(DeviceMemory memory, int64_t out_features_in, int64_t in_features_in);
  [[nodiscard]] MatrixView<const bf16> matrix() const {
    return {memory_.as<const bf16>(), out_features, in_features};
  }

 private:
  DeviceMemory memory_;
};

// One product, or one a head at constant distances (num_batches).
void multiply(CublasMatmul& matmul, const MatmulParams& params, cudaStream_t stream);

}  // namespace tandem::gpu::cuda
