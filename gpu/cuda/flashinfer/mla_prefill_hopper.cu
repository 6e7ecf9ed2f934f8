#include <flashinfer/attention/hopper/default_params.cuh>
#include <flashinfer/attention/hopper/prefill_sm90.cuh>
#include <flashinfer/attention/hopper/variants.cuh>

#include "gpu/cuda/error.h"
#include "gpu/cuda/flashinfer/mla_prefill.h"

namespace tandem::gpu::cuda {
namespace {

using FlashBf16 = cutlass::bfloat16_t;

struct FlashParams : flashinfer::SinglePrefillParams<FlashBf16, FlashBf16, FlashBf16> {};

FlashBf16* flash(const bf16* values) {
  return reinterpret_cast<FlashBf16*>(const_cast<bf16*>(values));
}

template <flashinfer::MaskMode kMask>
void launch(FlashParams& params, cudaStream_t stream) {
  TANDEM_CUDA_CHECK((flashinfer::SinglePrefillWithKVCacheDispatched<
                     kFlashPrefillQkDim, kFlashPrefillVDim, kMask, /*LEFT_SLIDING_WINDOW=*/false,
                     flashinfer::StandardAttention>(params, stream)));
}

}  // namespace

void launch_flash_mla_prefill_hopper(const FlashMlaPrefillParams& params, cudaStream_t stream) {
  const int32_t heads = params.num_attention_heads;
  FlashParams flash_params{};
  flash_params.q_ptr = flash(params.q);
  flash_params.k_ptr = flash(params.k);
  flash_params.v_ptr = flash(params.v);
  flash_params.o_ptr = flash(params.out);
  flash_params.lse_ptr = params.lse;
  flash_params.additional_params.sm_scale = params.softmax_scale;
  flash_params.q_stride_n = params.q_token_stride;
  flash_params.q_stride_h = params.q_head_stride;
  flash_params.k_stride_n = params.kv_token_stride;
  flash_params.k_stride_h = params.kv_head_stride;
  flash_params.v_stride_n = params.kv_token_stride;
  flash_params.v_stride_h = params.kv_head_stride;
  flash_params.o_stride_n = int64_t{heads} * kFlashPrefillVDim;
  flash_params.o_stride_h = kFlashPrefillVDim;
  flash_params.qo_len = params.q_len;
  flash_params.kv_len = params.kv_len;
  flash_params.num_qo_heads = heads;
  flash_params.num_kv_heads = heads;
  flash_params.group_size = 1;
  flash_params.window_left = -1;
  flash_params.causal = params.causal;
  if (params.causal) {
    launch<flashinfer::MaskMode::kCausal>(flash_params, stream);
  } else {
    launch<flashinfer::MaskMode::kNone>(flash_params, stream);
  }
}

}  // namespace tandem::gpu::cuda
