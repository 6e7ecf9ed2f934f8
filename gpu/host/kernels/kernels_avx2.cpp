#include "gpu/host/kernels/gemm-inl.h"
#include "gpu/host/kernels/rows-inl.h"

namespace tandem::gpu::host {

const Kernels* avx2_kernels() {
  static constexpr Kernels kTable = {
      .isa_name = "avx2",
      .max_rows_a_tile = kMaxRowsATile,
      .block_rows = 96,
      .block_cols = 512,
      .block_panels = 16,
      .gemm_f32 = gemm_panels<float>,
      .gemm_bf16 = nullptr,
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
