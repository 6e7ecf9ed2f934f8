#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>

#include "gpu/cuda/error.h"
#include "gpu/cuda/flashinfer/mla_prefill-inl.h"

namespace tandem::gpu::cuda {
namespace {

using FlashBf16 = cutlass::bfloat16_t;

struct FlashParams : flashinfer::SinglePrefillParams<FlashBf16, FlashBf16, FlashBf16> {};

template <flashinfer::MaskMode kMask>
void launch(FlashParams& params, cudaStream_t stream) {
  TANDEM_CUDA_CHECK((flashinfer::SinglePrefillWithKVCacheDispatched<
                     kFlashPrefillQkDim, kFlashPrefillVDim, kMask, /*LEFT_SLIDING_WINDOW=*/false,
                     flashinfer::StandardAttention>(params, stream)));
}

}  // namespace

void launch_flash_mla_prefill_hopper(const FlashMlaPrefillParams& params, cudaStream_t stream) {
  FlashParams flash_params{};
  fill_shapes(params, flash_params);
  flash_params.q_ptr = flash_values<FlashBf16>(params.q);
  flash_params.k_ptr = flash_values<FlashBf16>(params.k);
  flash_params.v_ptr = flash_values<FlashBf16>(params.v);
  flash_params.o_ptr = flash_values<FlashBf16>(params.out);
  flash_params.lse_ptr = params.lse;
  flash_params.additional_params.sm_scale = params.softmax_scale;
  flash_params.o_stride_n = int64_t{params.num_attention_heads} * kFlashPrefillVDim;
  flash_params.o_stride_h = kFlashPrefillVDim;
  flash_params.group_size = 1;
  flash_params.causal = params.causal;
  launch_with_mask(params.causal,
                   [&]<flashinfer::MaskMode kMask>() { launch<kMask>(flash_params, stream); });
}

}  // namespace tandem::gpu::cuda
