#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/rope_kv-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

void launch_rope_and_append_kv(const RopeKvParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.qk_rope_head_dim % 2 == 0 && params.qk_rope_head_dim <= kMaxRopeHeadDim,
               "rope_and_append_kv: qk_rope_head_dim");
  TANDEM_CHECK(params.kv_a.cols == params.kv_lora_rank + params.qk_rope_head_dim,
               "rope_and_append_kv: columns of kv_a");
  TANDEM_CUDA_CHECK(simt::launch<RopeAndAppendKv>(params, stream));
}

}  // namespace tandem::gpu::cuda
