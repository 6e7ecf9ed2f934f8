#include <flashinfer/attention/default_prefill_params.cuh>
#include <flashinfer/attention/prefill.cuh>
#include <flashinfer/attention/variants.cuh>

#include "gpu/cuda/error.h"
#include "gpu/cuda/flashinfer/mla_prefill-inl.h"

namespace tandem::gpu::cuda {
namespace {

struct FlashParams : flashinfer::SinglePrefillParams<nv_bfloat16, nv_bfloat16, nv_bfloat16> {};
using FlashVariant = flashinfer::DefaultAttention</*use_custom_mask=*/false,
                                                  /*use_sliding_window=*/false,
                                                  /*use_logits_soft_cap=*/false,
                                                  /*use_alibi=*/false>;

// One tile shape for all cards instead of the library's 12: 128 rows by 4 warps, 32 keys a step, in
// 69,632 bytes of shared memory: two blocks on a multiprocessor of an A100, one where there are 99
// KiB.
template <flashinfer::MaskMode kMask>
using FlashTraits = flashinfer::KernelTraits<kMask,
                                             /*CTA_TILE_Q=*/128,
                                             /*NUM_MMA_Q=*/2,
                                             /*NUM_MMA_KV=*/2,
                                             kFlashPrefillQkDim / 16,
                                             kFlashPrefillVDim / 16,
                                             /*NUM_WARPS_Q=*/4,
                                             /*NUM_WARPS_KV=*/1,
                                             flashinfer::PosEncodingMode::kNone,
                                             nv_bfloat16,
                                             nv_bfloat16,
                                             nv_bfloat16,
                                             float,
                                             int32_t,
                                             FlashVariant>;

// SinglePrefillWithKVCacheDispatched without its choice of tile and without splitting the keys.
template <flashinfer::MaskMode kMask>
void launch(FlashParams params, cudaStream_t stream) {
  using Traits = FlashTraits<kMask>;
  static_assert(!Traits::IsInvalid());
  constexpr int kSharedSizeBytes = sizeof(typename Traits::SharedStorage);
  const auto kernel = flashinfer::SinglePrefillWithKVCacheKernel<Traits, FlashParams>;
  TANDEM_CUDA_CHECK(
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedSizeBytes));
  const dim3 grid((params.qo_len + 127) / 128, 1, params.num_kv_heads);
  const dim3 block(32, 4, 1);
  void* args[] = {&params};
  TANDEM_CUDA_CHECK(cudaLaunchKernel(reinterpret_cast<const void*>(kernel), grid, block, args,
                                     kSharedSizeBytes, stream));
}

}  // namespace

void launch_flash_mla_prefill_ampere(const FlashMlaPrefillParams& params, cudaStream_t stream) {
  FlashParams flash_params{};
  fill_shapes(params, flash_params);
  flash_params.q = flash_values<nv_bfloat16>(params.q);
  flash_params.k = flash_values<nv_bfloat16>(params.k);
  flash_params.v = flash_values<nv_bfloat16>(params.v);
  flash_params.o = flash_values<nv_bfloat16>(params.out);
  flash_params.lse = params.lse;
  flash_params.group_size = flashinfer::uint_fastdiv(1);
  flash_params.sm_scale = params.softmax_scale;
  flash_params.partition_kv = false;
  launch_with_mask(params.causal,
                   [&]<flashinfer::MaskMode kMask>() { launch<kMask>(flash_params, stream); });
}

}  // namespace tandem::gpu::cuda
