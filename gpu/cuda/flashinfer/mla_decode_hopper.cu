#include <flashinfer/attention/mla_hopper.cuh>

#include "gpu/cuda/error.h"
#include "gpu/cuda/flashinfer/mla_decode-inl.h"

namespace tandem::gpu::cuda {

void launch_flash_mla_decode_hopper(const FlashMlaDecodeParams& params, cudaStream_t stream) {
  TANDEM_CUDA_CHECK(
      (flashinfer::mla::BatchMLAPageAttentionHopper<flashinfer::MaskMode::kCausal,
                                                    kFlashMlaLatentDim, kFlashMlaRopeDim>(
          flash_mla_params(params), 1, static_cast<uint32_t>(params.num_blocks), stream)));
}

}  // namespace tandem::gpu::cuda
