// MLA attention on a card (equations 8 and 9). K2's widths go to FlashInfer's kernels: absorbed for
// decodes and short items, expanded for items of kMinExpandedTokens and more; other widths go to
// our own absorbed kernel. Each is deterministic; what else is in the batch can change the last
// bits of a result of FlashInfer, whose split of the keys follows from all of the batch.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <memory>
#include <span>

#include "gpu/cuda/core/mla_plan.h"
#include "gpu/cuda/core/mla_schedule.h"
#include "gpu/cuda/core/step_inputs.h"
#include "gpu/cuda/cublas_matmul.h"
#include "gpu/cuda/device_memory.h"
#include "gpu/cuda/pinned_memory.h"
#include "gpu/cuda/staged_upload.h"
#include "gpu/ops.h"

namespace tandem::gpu::cuda {

// The absorbed form does 3.4 times the arithmetic of the expanded one ((576 + 512) / (192 + 128)),
// which has to make keys and values of all its context first: even at about a hundred tokens.
inline constexpr int32_t kMinExpandedTokens = 96;
// Keys that are expanded at a time.
inline constexpr int32_t kExpandedBlockTokens = 8192;

// kv_b_proj as it is, [heads, qk_nope_head_dim + v_head_dim, kv_lora_rank], for W_UV and for the
// expanded form; and W_UK^T [heads, kv_lora_rank, qk_nope_head_dim] beside it.
class CudaKvB : public KvBWeight {
 public:
  CudaKvB(MatrixView<const bf16> kv_b_proj, const MlaShape& shape, StagedUpload& uploader);
  static int64_t transposed_size_bytes(const MlaShape& shape) {
    return int64_t{shape.num_attention_heads} * shape.kv_lora_rank * shape.qk_nope_head_dim *
           int64_t{sizeof(bf16)};
  }

  [[nodiscard]] const bf16* kv_b() const { return kv_b_.as<const bf16>(); }
  [[nodiscard]] const bf16* uk_transposed() const { return uk_transposed_.as<const bf16>(); }

 private:
  DeviceMemory kv_b_;
  DeviceMemory uk_transposed_;
};

class MlaAttention {
 public:
  struct Card {
    int32_t num_multiprocessors = 0;
    bool is_hopper = false;
  };
  // Whether `shape` goes to FlashInfer, and its expanded form too.
  [[nodiscard]] static bool is_flash(const MlaShape& shape);
  [[nodiscard]] static bool has_expanded_form(const MlaShape& shape);
  // Device memory that the constructor takes.
  [[nodiscard]] static int64_t planned_size_bytes(const OpsLimits& limits,
                                                  const MlaShape& shape,
                                                  const Card& card);

  // On the current device.
  MlaAttention(const OpsLimits& limits, const MlaShape& shape, const Card& card);
  ~MlaAttention();

  // Plans the attention of the batch that `inputs` was filled with. num_rows: of the step's views.
  // May only be called when the stream has done what was asked for before.
  void begin_step(const StepInputs& inputs, MlaForm form, int64_t num_rows, cudaStream_t stream);

  struct Args {
    MatrixView<const bf16> q;
    const CudaKvB& kv_b;
    const bf16* cache;
    const int32_t* positions;  // [num_rows]
    const int32_t* page_ids;   // of StepInputs
    MatrixView<bf16> out;
  };
  void run(const Args& args, CublasMatmul& matmul, cudaStream_t stream) const;

  // Names the kernels, for the description of the device.
  [[nodiscard]] const char* kernels() const;

 private:
  struct Buffers;
  struct Planned;
  void plan_flash(int64_t num_rows, cudaStream_t stream);
  void plan_any_width(const StepInputs& inputs, int64_t num_rows, cudaStream_t stream);
  void absorb_queries(const Args& args,
                      CublasMatmul& matmul,
                      int64_t row_begin,
                      int64_t num_rows,
                      cudaStream_t stream) const;
  void run_absorbed(const Args& args, CublasMatmul& matmul, cudaStream_t stream) const;
  void run_expanded(const Args& args,
                    const MlaPlanItem& item,
                    CublasMatmul& matmul,
                    cudaStream_t stream) const;
  void expand_keys(const Args& args,
                   const MlaPlanItem& item,
                   int32_t kv_begin,
                   int32_t num_keys,
                   CublasMatmul& matmul,
                   cudaStream_t stream) const;

  MlaShape shape_;
  Card card_;
  int32_t max_batch_tokens_;
  std::unique_ptr<Planned> planned_;
  std::unique_ptr<Buffers> buffers_;
};

}  // namespace tandem::gpu::cuda
