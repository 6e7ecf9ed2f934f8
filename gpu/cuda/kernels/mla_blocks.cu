#include "gpu/cuda/kernels/mla_blocks-inl.h"

#include "gpu/cuda/error.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

void launch_unpack_latents(const UnpackLatentsParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.latents.cols % 8 == 0 && params.qk_rope_head_dim % 8 == 0 &&
                   params.rope_begin % 8 == 0 && params.key_head_dim % 8 == 0 &&
                   params.latents.row_stride % 8 == 0 && params.keys.row_stride % 8 == 0,
               "unpack_latents: widths");
  TANDEM_CUDA_CHECK(simt::launch<UnpackLatents>(params, stream));
}

void launch_merge_attention(const MergeAttentionParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.sum.rows == params.block_out.rows && params.sum.cols == params.block_out.cols,
               "merge_attention: shapes");
  TANDEM_CUDA_CHECK(simt::launch<MergeAttention>(params, stream));
}

}  // namespace tandem::gpu::cuda
