// How the commands get a model without knowing which: main() hands them a factory, and is the only
// file of this folder's executable that names offload::KimiK2.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "runtime/base/progress.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/forward_model.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::cli {

enum class Attention { kAuto, kAbsorbed, kExpanded };
enum class ExpertActivations { kBf16, kInt8 };

struct ModelLimits {
  int64_t kv_cache_tokens = 0;  // 0: the model chooses
  int32_t max_batch_tokens = 512;
  int32_t preferred_batch_tokens = 0;  // in place of them, where there is room for more
  int32_t max_logit_rows = 64;
  int32_t max_context_tokens = 0;  // 0: max_position_embeddings
  Attention attention = Attention::kAuto;
  ExpertActivations expert_activations = ExpertActivations::kBf16;
  std::string gpus;  // where the dense part runs: "none", "0", "0,1"; "": the model chooses
  // MoE layers, from the first, with their routed experts there too; absent: what fits on cards.
  std::optional<int32_t> gpu_expert_layers;
  // Host memory for KV pages that leave the devices' memory; absent: the model chooses.
  std::optional<int64_t> kv_host_size_bytes;
  int32_t min_kv_host_pages = 0;  // taken of it in any case, by what keeps pages on disk
  // Told the cards and the memory map before any of it is taken; may be empty.
  std::function<void(const std::string& plan)> on_plan;
};

// Loads every weight; throws LoadError, ConfigError. Checkpoint and pool outlive the model.
using ModelFactory = std::function<std::unique_ptr<ForwardModel>(
    const Checkpoint&, WorkerPool&, const ModelLimits&, const ProgressFn&)>;

// What the build and the machine have of GPUs, in one line.
using GpuDescription = std::function<std::string()>;

}  // namespace tandem::cli
