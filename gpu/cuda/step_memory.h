// Memory of a card's steps besides that of attention: taken once, by Ops::reserve.
#pragma once

#include <cstddef>
#include <cstdint>

#include "gpu/cuda/core/step_inputs.h"
#include "gpu/cuda/device_memory.h"
#include "gpu/cuda/experts.h"
#include "gpu/cuda/kernels/sample.h"
#include "gpu/cuda/pinned_memory.h"
#include "gpu/ops.h"

namespace tandem::gpu::cuda {

// For timing an adding product of up to 512 rows at K2's widths.
inline constexpr size_t kMatmulScratchSizeBytes = size_t{16} << 20;

struct StepMemory {
  explicit StepMemory(const OpsLimits& limits)
      : inputs({.max_batch_tokens = limits.max_batch_tokens,
                .max_context_tokens = limits.max_context_tokens,
                .max_sequences = limits.max_sequences()}),
        staging(values_size_bytes()),
        values(values_size_bytes()),
        router_logits(router_logits_size_bytes(limits)),
        experts(limits),
        sample_rows(static_cast<size_t>(limits.max_logit_rows) * sizeof(SampleRow)) {}

  [[nodiscard]] size_t values_size_bytes() const {
    return static_cast<size_t>(inputs.num_values()) * sizeof(int32_t);
  }
  static size_t router_logits_size_bytes(const OpsLimits& limits) {
    return static_cast<size_t>(int64_t{limits.max_batch_tokens} * limits.n_routed_experts) *
           sizeof(float);
  }
  [[nodiscard]] StepArrays<const int32_t> arrays() const {
    return inputs.arrays(values.as<const int32_t>());
  }

  StepInputs inputs;
  PinnedMemory staging;
  DeviceMemory values;
  DeviceMemory router_logits;  // [max_batch_tokens, n_routed_experts]
  ExpertProducts experts;
  PinnedMemory sample_rows;     // [max_logit_rows] read by the kernel where they lie
  int64_t num_sample_rows = 0;  // of this step, so far
};

}  // namespace tandem::gpu::cuda
