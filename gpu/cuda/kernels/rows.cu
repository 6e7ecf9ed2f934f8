#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/rows-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

void launch_embed(const EmbedParams& params, cudaStream_t stream) {
  TANDEM_CUDA_CHECK(simt::launch<Embed>(params, stream));
}

void launch_gather_rows(const GatherRowsParams& params, cudaStream_t stream) {
  TANDEM_CUDA_CHECK(simt::launch<GatherRows>(params, stream));
}

void launch_add(const AddParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.addends.num <= kMaxAddends, "add: addends");
  TANDEM_CUDA_CHECK(simt::launch<Add>(params, stream));
}

void launch_swiglu(const SwigluParams& params, cudaStream_t stream) {
  TANDEM_CUDA_CHECK(simt::launch<Swiglu>(params, stream));
}

}  // namespace tandem::gpu::cuda
