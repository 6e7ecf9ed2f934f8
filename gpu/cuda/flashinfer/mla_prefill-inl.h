// What the adapters of FlashInfer's two prefill kernels share; for the units of this folder alone.
#pragma once

#include <cstdint>
#include <flashinfer/attention/mask.cuh>
#include <type_traits>

#include "gpu/cuda/flashinfer/mla_prefill.h"

namespace tandem::gpu::cuda {

// Our values in the library's type; it declares its inputs mutable.
template <typename Element>
Element* flash_values(const bf16* values) {
  static_assert(sizeof(Element) == sizeof(bf16));
  return reinterpret_cast<Element*>(const_cast<bf16*>(values));
}

// The fields that the library's structs have both, under the same names, in types of their own.
template <typename FlashParams>
void fill_shapes(const FlashMlaPrefillParams& params, FlashParams& flash_params) {
  const auto set = [](auto& field, int32_t value) {
    field = static_cast<std::remove_reference_t<decltype(field)>>(value);
  };
  set(flash_params.q_stride_n, params.q_token_stride);
  set(flash_params.q_stride_h, params.q_head_stride);
  set(flash_params.k_stride_n, params.kv_token_stride);
  set(flash_params.k_stride_h, params.kv_head_stride);
  set(flash_params.v_stride_n, params.kv_token_stride);
  set(flash_params.v_stride_h, params.kv_head_stride);
  set(flash_params.qo_len, params.q_len);
  set(flash_params.kv_len, params.kv_len);
  set(flash_params.num_qo_heads, params.num_attention_heads);
  set(flash_params.num_kv_heads, params.num_attention_heads);
  set(flash_params.window_left, -1);
}

// launch.operator()<mask>() for the mask that is asked for.
template <typename Launch>
void launch_with_mask(bool causal, const Launch& launch) {
  if (causal) {
    launch.template operator()<flashinfer::MaskMode::kCausal>();
  } else {
    launch.template operator()<flashinfer::MaskMode::kNone>();
  }
}

}  // namespace tandem::gpu::cuda
