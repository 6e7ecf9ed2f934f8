// FlashMlaDecodeParams as FlashInfer's MLAParams: shared by the units of both kernels, included by
// nothing else.
#pragma once

#include <flashinfer/attention/mla_params.cuh>

#include "gpu/cuda/flashinfer/mla_decode.h"
#include "runtime/model/forward_model.h"

namespace tandem::gpu::cuda {
namespace {

using FlashMlaParams = flashinfer::MLAParams<nv_bfloat16, nv_bfloat16, nv_bfloat16, int32_t>;

// FlashInfer's structs hold pointers to non-const also where it only reads.
nv_bfloat16* flash(const bf16* values) {
  return reinterpret_cast<nv_bfloat16*>(const_cast<bf16*>(values));
}
int32_t* flash(const int32_t* values) { return const_cast<int32_t*>(values); }

FlashMlaParams flash_mla_params(const FlashMlaDecodeParams& params) {
  const MlaPlanArrays<const int32_t>& plan = params.plan;
  constexpr uint32_t kRow = kFlashMlaLatentDim + kFlashMlaRopeDim;
  FlashMlaParams flash_params;
  flash_params.q_nope = flash(params.q_latent);
  flash_params.q_pe = flash(params.q_rope);
  flash_params.ckv = flash(params.kv_cache);
  flash_params.kpe = flash(params.kv_cache) + kFlashMlaLatentDim;
  flash_params.partial_o = flash(params.partial_out);
  flash_params.partial_lse = params.partial_lse;
  flash_params.final_o = flash(params.out);
  flash_params.final_lse = nullptr;
  flash_params.q_indptr = flash(plan.q_token_begin);
  flash_params.kv_indptr = flash(plan.kv_page_begin);
  flash_params.partial_indptr = flash(plan.partial_row_begin);
  flash_params.merge_packed_offset_start = flash(plan.merge_row_begin);
  flash_params.merge_packed_offset_end = flash(plan.merge_row_end);
  flash_params.merge_partial_packed_offset_start = flash(plan.merge_partial_begin);
  flash_params.merge_partial_packed_offset_end = flash(plan.merge_partial_end);
  flash_params.merge_partial_stride = flash(plan.merge_partial_stride);
  flash_params.kv_indices = flash(params.page_ids);
  flash_params.q_len = flash(plan.q_len);
  flash_params.kv_len = flash(plan.kv_len);
  flash_params.q_start = flash(plan.q_row_begin);
  flash_params.kv_start = flash(plan.kv_begin);
  flash_params.kv_end = flash(plan.kv_end);
  flash_params.work_indptr = flash(plan.work_begin);
  flash_params.block_size = flashinfer::uint_fastdiv(kPageSizeTokens);
  flash_params.num_heads =
      flashinfer::uint_fastdiv(static_cast<uint32_t>(params.num_attention_heads));
  flash_params.q_nope_stride_n = static_cast<uint32_t>(params.q_latent_token_stride);
  flash_params.q_nope_stride_h = static_cast<uint32_t>(params.q_latent_head_stride);
  flash_params.q_pe_stride_n = static_cast<uint32_t>(params.q_rope_token_stride);
  flash_params.q_pe_stride_h = static_cast<uint32_t>(params.q_rope_head_stride);
  flash_params.ckv_stride_page = kPageSizeTokens * kRow;
  flash_params.ckv_stride_n = kRow;
  flash_params.kpe_stride_page = kPageSizeTokens * kRow;
  flash_params.kpe_stride_n = kRow;
  flash_params.o_stride_n = static_cast<uint32_t>(params.out_token_stride);
  flash_params.o_stride_h = static_cast<uint32_t>(params.out_head_stride);
  flash_params.sm_scale = params.softmax_scale;
  flash_params.return_lse_base_on_e = false;
  return flash_params;
}

}  // namespace
}  // namespace tandem::gpu::cuda
