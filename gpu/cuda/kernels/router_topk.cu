#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/router_topk-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

void launch_router_topk(const RouterTopkParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.expert_ids.cols <= simt::kWarpSize && params.n_group <= simt::kWarpSize &&
                   params.expert_ids.cols <= params.logits.cols,
               "router_topk: num_experts_per_tok or n_group");
  TANDEM_CHECK(params.logits.cols % params.n_group == 0, "router_topk: n_group");
  TANDEM_CUDA_CHECK(simt::launch<RouterTopk>(params, stream));
}

}  // namespace tandem::gpu::cuda
