#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/sample-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

void launch_sample(const SampleParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.logits.cols <= Sample::kMaxBlocks * Sample::kMaxThreads,
               "sample: the vocabulary is too large");
  TANDEM_CUDA_CHECK(simt::launch<Sample>(params, stream));
}

}  // namespace tandem::gpu::cuda
