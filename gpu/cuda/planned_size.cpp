// What cuda_ops.h says of the memory that a card's operations will take, before any is taken.
#include "gpu/cuda/card_properties.h"
#include "gpu/cuda/cublas_matmul.h"
#include "gpu/cuda/cuda_ops.h"
#include "gpu/cuda/error.h"
#include "gpu/cuda/mla_attention.h"
#include "gpu/cuda/staged_upload.h"
#include "gpu/cuda/step_memory.h"

namespace tandem::gpu::cuda {

int64_t planned_ops_size_bytes(int32_t card_idx, const OpsLimits& limits, const MlaShape& shape) {
  int num_cards = 0;
  TANDEM_CUDA_CHECK(cudaGetDeviceCount(&num_cards));
  const int32_t known_card_idx = card_idx < num_cards ? card_idx : 0;
  const StepInputs inputs({.max_batch_tokens = limits.max_batch_tokens,
                           .max_context_tokens = limits.max_context_tokens,
                           .max_sequences = limits.max_sequences()});
  return static_cast<int64_t>(CublasMatmul::kWorkspaceSizeBytes + kMatmulScratchSizeBytes +
                              StepMemory::router_logits_size_bytes(limits)) +
         ExpertProducts::planned_size_bytes(limits) +
         inputs.num_values() * int64_t{sizeof(int32_t)} +
         MlaAttention::planned_size_bytes(limits, shape, mla_card(properties_of(known_card_idx)));
}

int64_t planned_kv_b_extra_size_bytes(const MlaShape& shape) {
  return CudaKvB::transposed_size_bytes(shape);
}

int64_t planned_upload_size_bytes() { return static_cast<int64_t>(StagedUpload::kSizeBytes); }

}  // namespace tandem::gpu::cuda
