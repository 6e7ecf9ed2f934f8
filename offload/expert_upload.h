// Routed experts from the checkpoint to the device that a layer lies on: packed on the pool's
// workers, a few at a time.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "gpu/ops.h"
#include "runtime/memory/numa_buffer.h"
#include "runtime/model/expert_reader.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::offload {

class ExpertUpload {
 public:
  ExpertUpload(const ModelConfig& config, WorkerPool& pool);

  // All experts of a MoE layer. `report` is told the bytes that have gone to the device. Throws
  // LoadError, CudaError.
  std::unique_ptr<gpu::ExpertsWeight> upload_layer(
      gpu::Ops& ops,
      ExpertReader& reader,
      int32_t layer_idx,
      const std::function<void(int64_t size_bytes)>& report);

  // Host memory that one takes.
  [[nodiscard]] static int64_t planned_size_bytes(const ModelConfig& config);

 private:
  void pack(ExpertReader& reader, int32_t layer_idx, int32_t first_expert_idx);

  WorkerPool& pool_;
  gpu::ExpertsShape shape_;
  int64_t expert_size_bytes_;
  NumaBuffer packed_;  // [kExpertsAtATime] experts
};

}  // namespace tandem::offload
