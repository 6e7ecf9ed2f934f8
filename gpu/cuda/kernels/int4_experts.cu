#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/int4_experts-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {
namespace {

void check_params(const Int4ExpertsParams& p) {
  TANDEM_CHECK(p.hidden.cols % 32 == 0 && p.moe_intermediate_size % 32 == 0,
               "int4_experts: hidden_size or moe_intermediate_size");
  TANDEM_CHECK(p.hidden.row_stride % 8 == 0 &&
                   reinterpret_cast<uintptr_t>(p.hidden.data) % 16 == 0 &&
                   reinterpret_cast<uintptr_t>(p.activated) % 16 == 0,
               "int4_experts: rows must start at multiples of 16 bytes");
  TANDEM_CHECK(p.n_routed_experts <= SortPairs::kMaxExperts, "int4_experts: too many experts");
  TANDEM_CHECK(p.expert_ids.rows == p.hidden.rows && p.residual.rows == p.hidden.rows &&
                   p.residual.cols == p.hidden.cols && p.expert_weights.cols == p.expert_ids.cols,
               "int4_experts: shapes");
}

}  // namespace

void launch_int4_experts(const Int4ExpertsParams& params, ExpertPath path, cudaStream_t stream) {
  check_params(params);
  Int4ExpertsParams p = params;
  p.tokens_a_tile = tokens_a_tile(path);
  TANDEM_CUDA_CHECK(simt::launch<SortPairs>(p, stream));
  if (path == ExpertPath::kFew) {
    TANDEM_CUDA_CHECK(simt::launch<Int4Few<ExpertStage::kGateUp>>(p, stream));
    TANDEM_CUDA_CHECK(simt::launch<Int4Few<ExpertStage::kDown>>(p, stream));
  } else {
    TANDEM_CUDA_CHECK(simt::launch<Int4Many<ExpertStage::kGateUp>>(p, stream));
    TANDEM_CUDA_CHECK(simt::launch<Int4Many<ExpertStage::kDown>>(p, stream));
  }
  TANDEM_CUDA_CHECK(simt::launch<CombineExperts>(p, stream));
}

}  // namespace tandem::gpu::cuda
