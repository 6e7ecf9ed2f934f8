#include "offload/available_memory.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

#include "runtime/memory/numa_buffer.h"
#include "runtime/topology/cgroup.h"

namespace tandem::offload {

AvailableMemory available_memory(std::span<const gpu::LogicalDevice> devices) {
  AvailableMemory available{.host_size_bytes = std::numeric_limits<int64_t>::max(),
                            .huge_page_size_bytes = NumaBuffer::free_huge_page_bytes()};
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t value_kib = 0;
  std::string unit;
  while (meminfo >> key >> value_kib) {
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") available.host_size_bytes = value_kib * 1024;
  }
  const std::optional<int64_t> left = Cgroup::of_this_process().memory_left_bytes();
  if (left) available.host_size_bytes = std::min(available.host_size_bytes, *left);
  for (const gpu::LogicalDevice& device : devices) {
    if (device.is_host()) continue;
    const auto card_idx = static_cast<size_t>(device.card_idx);
    if (available.card_size_bytes.size() <= card_idx)
      available.card_size_bytes.resize(card_idx + 1);
    available.card_size_bytes[card_idx] = gpu::free_card_size_bytes(device.card_idx);
  }
  return available;
}

}  // namespace tandem::offload
