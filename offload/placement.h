// What goes where and how much memory it takes, decided before anything is allocated: which layers
// lie on which logical device, how many KV pages there are, whether all of it fits.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cpu_experts/moe_experts.h"
#include "gpu/devices.h"
#include "offload/available_memory.h"
#include "runtime/base/model_memory.h"
#include "runtime/model/checkpoint.h"

namespace tandem::offload {

struct PlacementRequest {
  int64_t kv_cache_tokens = 0;     // 0: chosen from what is free
  int32_t max_context_tokens = 0;  // 0: max_position_embeddings
  int32_t max_batch_tokens = 0;
  // Larger steps in place of those, where there is room for them: a start does not fail for them
  // (but it may be room that is missing when a model wakes), no context gets shorter, no experts
  // leave a card, and an eighth of the KV pages is the most they cost. 0: none.
  int32_t preferred_batch_tokens = 0;
  int32_t max_logit_rows = 0;
  std::vector<gpu::LogicalDevice> devices = {{}};  // in the order of the layers
  // MoE layers, from the first, whose routed experts lie where the rest of the layer does. Absent:
  // as many as cards have room for beside weights, KV and workspace; none on the host as a device,
  // whose own kernels for experts are faster.
  std::optional<int32_t> device_expert_layers = 0;
  // Host memory for KV pages that leave the devices' memory. Absent: beside cards half of what all
  // else leaves of it, at most 32 GiB; none on the host as a device, whose KV lies there already.
  std::optional<int64_t> kv_host_size_bytes = 0;
  // Taken of host memory in any case, for pages on their way to and from a folder on disk.
  int32_t min_kv_host_pages = 0;
  // What a device's operations take for themselves; a plan for cards that are not there brings its
  // own.
  std::function<int64_t(const gpu::LogicalDevice&, const gpu::OpsLimits&, const gpu::MlaShape&)>
      ops_size_bytes = gpu::planned_ops_size_bytes;
  // What routed experts of so many MoE layers take in host memory, and a step of so many tokens
  // beside them. Absent: what they take on one NUMA node, and nothing.
  std::function<cpu_experts::MoeExperts::PlannedSize(int32_t num_layers, int32_t max_batch_tokens)>
      host_experts_size = {};
};

// A contiguous run of layers with their KV on one logical device.
struct DevicePlacement {
  gpu::LogicalDevice device;
  int32_t first_layer_idx = 0;
  int32_t num_layers = 0;
  int32_t max_logit_rows = 0;        // 0 but on the last
  int32_t num_expert_layers = 0;     // of them with their routed experts here
  int64_t experts_size_bytes = 0;    // of those
  int64_t weights_size_bytes = 0;    // the embedding lies on the first device, the head on the last
  int64_t kv_size_bytes = 0;         // num_kv_pages of these layers
  int64_t workspace_size_bytes = 0;  // activations of the largest step, the operations' own buffers
  [[nodiscard]] int64_t total_size_bytes() const {
    return weights_size_bytes + experts_size_bytes + kv_size_bytes + workspace_size_bytes;
  }
};

struct Placement {
  std::vector<DevicePlacement> devices;
  int32_t num_device_expert_layers = 0;  // the first MoE layers: their experts lie on the devices
  // In host memory, wherever the devices are: the routed experts of the other MoE layers.
  int32_t num_host_expert_layers = 0;
  int64_t host_experts_size_bytes = 0;
  int64_t host_experts_work_size_bytes = 0;  // what they work in
  int64_t staging_size_bytes = 0;            // what devices and experts hand to each other, uploads
  int64_t kv_host_size_bytes = 0;            // whole pages that have left the devices' memory
  int64_t kv_disk_host_size_bytes = 0;       // what pages on their way to disk and back take beyond
  int32_t num_kv_pages = 0;
  int32_t max_context_tokens = 0;
  int32_t max_batch_tokens = 0;  // as needed or as preferred
  AvailableMemory available;

  [[nodiscard]] int64_t kv_page_size_bytes() const;  // all layers
  [[nodiscard]] int64_t host_size_bytes_beside_devices() const;
  // All that one memory has to hold; `memory` names a card or the host.
  [[nodiscard]] int64_t size_bytes_in(const gpu::LogicalDevice& memory) const;
  [[nodiscard]] int64_t available_in(const gpu::LogicalDevice& memory) const;
  [[nodiscard]] int64_t dense_size_bytes() const;
  [[nodiscard]] int64_t experts_size_bytes() const;  // wherever they lie
};

// Layers are split so that the fullest device is as empty as can be, as a share of its memory.
// Throws LoadError when it cannot fit, with the memory map, the flag to change and a value of it
// that fits; ConfigError for wishes that no memory could fulfil.
Placement plan_placement(const Checkpoint& checkpoint,
                         const PlacementRequest& request,
                         const AvailableMemory& available);
std::string format_memory_map(const Placement& placement);

// The same plan beside what is free at another time.
Placement with_available(Placement placement, const AvailableMemory& available);
// Whether parts of the model that were given back find room again in what is free now, and what
// steps work in with them. Throws LoadError with the memory map where they do not.
void check_room(const Placement& placement,
                const ModelMemory& what,
                bool with_workspace,
                const AvailableMemory& available);

}  // namespace tandem::offload
