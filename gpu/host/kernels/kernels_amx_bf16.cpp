#include "gpu/host/kernels/amx_gemm-inl.h"
#include "gpu/host/kernels/gemm-inl.h"
#include "gpu/host/kernels/rows-inl.h"

namespace tandem::gpu::host {

const Kernels* amx_bf16_kernels() {
  static constexpr Kernels kTable = {
      .isa_name = "amx_bf16",
      .max_rows_a_tile = 2 * kTileRows,
      .block_rows = 256,
      .block_cols = 256,
      .block_panels = 64,
      .gemm_f32 = gemm_tiles_f32,
      .gemm_bf16 = gemm_tiles,
      .pack_panel = pack_panel,
      .pack_row_pair = pack_row_pair,
      .widen = widen,
      .narrow = narrow,
      .scale = scale,
      .add = add,
      .rms_norm = rms_norm,
      .swiglu = swiglu,
      .softmax_block = softmax_block,
  };
  return &kTable;
}

}  // namespace tandem::gpu::host
