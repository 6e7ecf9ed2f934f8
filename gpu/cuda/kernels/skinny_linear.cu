#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/skinny_linear-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {
namespace {

constexpr int64_t kMaxGemvTokens = 4;

template <int kTokens>
cudaError_t launch_gemv(const SkinnyLinearParams& params, cudaStream_t stream) {
  // Fewer rows a warp where there are too few for all multiprocessors.
  if (params.weight.rows * params.num_heads < 2048)
    return simt::launch<SkinnyGemv<kTokens, 2>>(params, stream);
  return simt::launch<SkinnyGemv<kTokens, 4>>(params, stream);
}

cudaError_t launch_any_gemv(const SkinnyLinearParams& params, cudaStream_t stream) {
  switch (params.x.rows) {
    case 1:
      return launch_gemv<1>(params, stream);
    case 2:
      return launch_gemv<2>(params, stream);
    case 3:
      return launch_gemv<3>(params, stream);
    default:
      return launch_gemv<4>(params, stream);
  }
}

bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

void check_params(const SkinnyLinearParams& p) {
  TANDEM_CHECK(p.x.cols == p.weight.cols && p.weight.cols % 8 == 0, "skinny_linear: in_features");
  TANDEM_CHECK(p.x.row_stride % 8 == 0 && p.weight.row_stride % 8 == 0 &&
                   p.x_head_stride % 8 == 0 && p.weight_head_stride % 8 == 0 &&
                   is_aligned(p.x.data) && is_aligned(p.weight.data),
               "skinny_linear: rows must start at multiples of 16 bytes");
  const bool is_float = p.output == LinearOutput::kFloat || p.output == LinearOutput::kAddFloat;
  const int64_t out_rows = is_float ? p.out_float.rows : p.out_bf16.rows;
  TANDEM_CHECK(out_rows == p.x.rows, "skinny_linear: rows of out");
  TANDEM_CHECK((is_float ? p.out_float.cols : p.out_bf16.cols) >= num_columns(p),
               "skinny_linear: columns of out");
}

}  // namespace

void launch_skinny_linear(const SkinnyLinearParams& params, LinearPath path, cudaStream_t stream) {
  check_params(params);
  if (params.x.rows == 0) return;
  if (path == LinearPath::kAuto)
    path = params.x.rows <= kMaxGemvTokens ? LinearPath::kFma : LinearPath::kTensorCores;
  if (path == LinearPath::kFma) {
    TANDEM_CHECK(params.x.rows <= kMaxGemvTokens, "skinny_linear: too many tokens for kFma");
    TANDEM_CUDA_CHECK(launch_any_gemv(params, stream));
  } else if (params.x.rows <= 8) {
    TANDEM_CUDA_CHECK(simt::launch<SkinnyMma<1>>(params, stream));
  } else {
    TANDEM_CUDA_CHECK(simt::launch<SkinnyMma<2>>(params, stream));
  }
}

}  // namespace tandem::gpu::cuda
