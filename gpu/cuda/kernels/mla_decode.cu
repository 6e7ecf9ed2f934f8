#include "gpu/cuda/error.h"
#include "gpu/cuda/kernels/mla_decode-inl.h"
#include "gpu/cuda/simt/launch.cuh"
#include "runtime/base/check.h"

namespace tandem::gpu::cuda {
namespace {

bool is_aligned(const void* address) { return reinterpret_cast<uintptr_t>(address) % 16 == 0; }

void check_params(const MlaDecodeParams& p) {
  TANDEM_CHECK(
      p.kv_lora_rank % 8 == 0 && p.kv_lora_rank <= kMaxMlaDecodeRank && p.qk_rope_head_dim % 8 == 0,
      "mla_decode: kv_lora_rank or qk_rope_head_dim");
  TANDEM_CHECK(p.q_latent.row_stride % 8 == 0 && p.q_rope.row_stride % 8 == 0 &&
                   p.q_rope_head_stride % 8 == 0 && is_aligned(p.q_latent.data) &&
                   is_aligned(p.q_rope.data) && is_aligned(p.cache),
               "mla_decode: rows must start at multiples of 16 bytes");
  TANDEM_CHECK(p.num_blocks > 0, "mla_decode: num_blocks");
}

template <int kRowTiles>
cudaError_t launch_tiles(const MlaDecodeParams& params, cudaStream_t stream) {
  if (params.kv_lora_rank <= 64) return simt::launch<MlaDecode<kRowTiles, 1>>(params, stream);
  return simt::launch<MlaDecode<kRowTiles, 8>>(params, stream);
}

}  // namespace

int32_t mla_decode_shared_size_bytes(int32_t num_attention_heads, int32_t kv_dim) {
  return mla_layout(kv_dim, mla_rows_a_tile(num_attention_heads)).size_bytes;
}

void launch_mla_decode(const MlaDecodeParams& params, cudaStream_t stream) {
  check_params(params);
  if (mla_rows_a_tile(params.num_attention_heads) == 64) {
    TANDEM_CUDA_CHECK(launch_tiles<4>(params, stream));
  } else {
    TANDEM_CUDA_CHECK(launch_tiles<1>(params, stream));
  }
  TANDEM_CUDA_CHECK(simt::launch<MlaCombine>(params, stream));
}

}  // namespace tandem::gpu::cuda
