#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/router_topk-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {

void launch_router_topk(const RouterTopkParams& params, cudaStream_t stream) {
  TANDEM_CHECK(params.expert_ids.cols <= kMaxRouterChoices && params.n_group <= kMaxRouterChoices &&
                   params.expert_ids.cols <= params.logits.cols,
               "router_topk: num_experts_per_tok or n_group");
  TANDEM_CHECK(params.logits.cols % params.n_group == 0, "router_topk: n_group");
  if (params.hidden_copy.rows > 0) {
    const auto is_aligned = [](const void* data, int64_t row_stride) {
      return simt::is_multiple_of<16>(data) && row_stride % RouterTopk::kWord == 0;
    };
    TANDEM_CHECK(params.hidden.rows == params.logits.rows &&
                     params.hidden_copy.rows == params.logits.rows &&
                     params.hidden_copy.cols == params.hidden.cols &&
                     params.hidden.cols % RouterTopk::kWord == 0 &&
                     is_aligned(params.hidden.data, params.hidden.row_stride) &&
                     is_aligned(params.hidden_copy.data, params.hidden_copy.row_stride),
                 "router_topk: hidden");
  }
  TANDEM_CUDA_CHECK(simt::launch<RouterTopk>(params, stream));
}

}  // namespace tandem::gpu::cuda
