// The memory that a model can be given, as it is now.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/devices.h"

namespace tandem::offload {

struct AvailableMemory {
  int64_t host_size_bytes = 0;
  int64_t huge_page_size_bytes = 0;           // beside it: reserved, for the routed experts alone
  std::vector<int64_t> card_size_bytes = {};  // [cards], 0 for those that no device lies on
};

// Host memory that can be had without swapping (MemAvailable), respecting the process's cgroup
// limit, reserved huge pages, and what is free on the cards among `devices`.
AvailableMemory available_memory(std::span<const gpu::LogicalDevice> devices);

}  // namespace tandem::offload
