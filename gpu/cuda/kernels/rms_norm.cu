#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/rms_norm-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

void launch_rms_norm(const RmsNormParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.addends.num <= kMaxAddends, "rms_norm: addends");
  TANDEM_CHECK(params.x.rows == params.out.rows && params.x.cols >= params.out.cols,
               "rms_norm: shapes");
  TANDEM_CUDA_CHECK(simt::launch<RmsNorm>(params, stream));
}

}  // namespace tandem::gpu::cuda
