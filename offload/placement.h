// What goes where and how much memory it takes, decided before anything is allocated.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/model/checkpoint.h"

namespace tandem::offload {

struct PlacementRequest {
  int64_t kv_cache_tokens = 0;     // 0: chosen from what is free
  int32_t max_context_tokens = 0;  // 0: max_position_embeddings
  int32_t max_batch_tokens = 0;
  int32_t max_logit_rows = 0;
};

struct Placement {
  int64_t dense_size_bytes = 0;
  int64_t experts_size_bytes = 0;
  int64_t workspace_size_bytes = 0;
  int64_t kv_size_bytes = 0;
  int32_t num_kv_pages = 0;
  int32_t max_context_tokens = 0;
  int64_t available_size_bytes = 0;  // before loading
  [[nodiscard]] int64_t total_size_bytes() const {
    return dense_size_bytes + experts_size_bytes + workspace_size_bytes + kv_size_bytes;
  }
};

// Throws LoadError when it cannot fit, with the memory map and what to change.
Placement plan_placement(const Checkpoint& checkpoint,
                         const PlacementRequest& request,
                         int64_t available_size_bytes);
std::string format_memory_map(const Placement& placement);

// Memory that can be had without swapping (MemAvailable), respecting the process's cgroup limit.
int64_t available_memory_size_bytes();

}  // namespace tandem::offload
