// Routed experts on a card: their packed INT4 as it lies, and what their kernels need beside it.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "gpu/cuda/device_memory.h"
#include "gpu/cuda/kernels/int4_experts.h"
#include "gpu/cuda/staged_upload.h"
#include "gpu/ops.h"

namespace tandem::gpu::cuda {

class CudaExperts : public ExpertsWeight {
 public:
  // On the current device. Throws CudaError, and what packed_expert throws.
  CudaExperts(const ExpertsShape& shape, Ops::PackedExpert packed_expert, StagedUpload& uploader);

  [[nodiscard]] const ExpertsShape& shape() const { return shape_; }
  // [n_routed_experts] device pointers, in device memory.
  [[nodiscard]] const std::byte* const* experts() const {
    return addresses_.as<const std::byte* const>();
  }

 private:
  ExpertsShape shape_;
  DeviceMemory weights_;
  DeviceMemory addresses_;
};

class ExpertProducts {
 public:
  // Memory for the largest step, on the current device.
  explicit ExpertProducts(const OpsLimits& limits);
  [[nodiscard]] static int64_t planned_size_bytes(const OpsLimits& limits);

  struct Args {
    MatrixView<const bf16> hidden;
    const CudaExperts& experts;
    MatrixView<const int32_t> expert_ids;
    MatrixView<const float> expert_weights;
    const int32_t* kv_slots;  // of StepInputs: rows without a token are left out
    MatrixView<float> residual;
  };
  void run(const Args& args, cudaStream_t stream) const;

 private:
  struct Buffers;
  ExpertsShape shape_;
  int64_t max_rows_ = 0;  // at a time
  DeviceMemory memory_;
};

}  // namespace tandem::gpu::cuda
