#include "offload/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>

#include "offload/workspace.h"
#include "runtime/base/errors.h"
#include "runtime/model/forward_model.h"
#include "runtime/topology/cgroup.h"

namespace tandem::offload {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
// Left to the rest of the system and to our own small allocations.
constexpr int64_t kReserveSizeBytes = kGiB / 2;
constexpr int64_t kDefaultKvContexts = 16;
constexpr double kDefaultKvShare = 0.25;  // of what weights and workspace leave

double gib(int64_t size_bytes) {
  return static_cast<double>(size_bytes) / static_cast<double>(kGiB);
}

int64_t kv_page_size_bytes(const ModelConfig& config) {
  return int64_t{config.num_hidden_layers} * kPageSizeTokens * config.kv_dim() *
         int64_t{sizeof(bf16)};
}

// Enough for several full contexts, but no more than a share of the memory that is left, and at
// least one page.
int64_t choose_kv_pages(const PlacementRequest& request,
                        int64_t context_tokens,
                        int64_t page_size_bytes,
                        int64_t left_size_bytes) {
  if (request.kv_cache_tokens > 0) {
    return (request.kv_cache_tokens + kPageSizeTokens - 1) / kPageSizeTokens;
  }
  const int64_t context_pages = (context_tokens + kPageSizeTokens - 1) / kPageSizeTokens;
  const auto share_size_bytes = static_cast<int64_t>(
      kDefaultKvShare * static_cast<double>(std::max<int64_t>(left_size_bytes, 0)));
  return std::clamp<int64_t>(share_size_bytes / page_size_bytes, 1,
                             kDefaultKvContexts * context_pages);
}

}  // namespace

Placement plan_placement(const Checkpoint& checkpoint,
                         const PlacementRequest& request,
                         int64_t available_size_bytes) {
  const ModelConfig& config = checkpoint.config();
  Placement placement;
  placement.available_size_bytes = available_size_bytes;
  placement.dense_size_bytes = checkpoint.dense_size_bytes();
  placement.experts_size_bytes = checkpoint.resident_expert_size_bytes();
  const WorkspaceLimits limits{.max_batch_tokens = request.max_batch_tokens,
                               .max_logit_rows = request.max_logit_rows};
  placement.workspace_size_bytes =
      Workspace::planned_size_bytes(config, limits) +
      Workspace::planned_host_size_bytes(config, limits, /*memory_is_host=*/true);

  const int64_t wanted_context =
      request.max_context_tokens > 0
          ? std::min(request.max_context_tokens, config.max_position_embeddings)
          : config.max_position_embeddings;
  const int64_t left_size_bytes =
      available_size_bytes - kReserveSizeBytes - placement.total_size_bytes();
  const int64_t num_pages =
      choose_kv_pages(request, wanted_context, kv_page_size_bytes(config), left_size_bytes);
  if (num_pages > std::numeric_limits<int32_t>::max() / kPageSizeTokens) {
    throw ConfigError(fmt::format("kv_cache_tokens is {}, expected at most {}",
                                  request.kv_cache_tokens, std::numeric_limits<int32_t>::max()));
  }
  placement.num_kv_pages = static_cast<int32_t>(num_pages);
  placement.kv_size_bytes = num_pages * kv_page_size_bytes(config);
  placement.max_context_tokens =
      static_cast<int32_t>(std::min(wanted_context, num_pages * kPageSizeTokens));
  if (placement.total_size_bytes() + kReserveSizeBytes > available_size_bytes) {
    throw LoadError(
        fmt::format("the model does not fit in memory: {:.2f} GiB needed (and {:.2f} GiB left for "
                    "the system), {:.2f} GiB available\n"
                    "{}use fewer KV tokens (--kv-cache-tokens), smaller steps "
                    "(--max-batch-tokens), or a machine with more memory",
                    gib(placement.total_size_bytes()), gib(kReserveSizeBytes),
                    gib(available_size_bytes), format_memory_map(placement)));
  }
  return placement;
}

std::string format_memory_map(const Placement& placement) {
  const auto line = [](std::string_view what, int64_t size_bytes, const std::string& remark) {
    return fmt::format("  {:<16}{:>9.3f} GiB  {}\n", what, gib(size_bytes), remark);
  };
  std::string map = "memory map\n";
  map += line("dense weights", placement.dense_size_bytes, "BF16");
  map += line("routed experts", placement.experts_size_bytes, "INT4, 4.5 bits a weight");
  map += line("KV cache", placement.kv_size_bytes,
              fmt::format("{} tokens in pages of {}, context up to {}",
                          int64_t{placement.num_kv_pages} * kPageSizeTokens, kPageSizeTokens,
                          placement.max_context_tokens));
  map += line("workspace", placement.workspace_size_bytes, "");
  map += line("total", placement.total_size_bytes(),
              fmt::format("of {:.3f} GiB available", gib(placement.available_size_bytes)));
  return map;
}

int64_t available_memory_size_bytes() {
  int64_t available_size_bytes = std::numeric_limits<int64_t>::max();
  std::ifstream meminfo("/proc/meminfo");
  std::string key;
  int64_t value_kib = 0;
  std::string unit;
  while (meminfo >> key >> value_kib) {
    std::getline(meminfo, unit);
    if (key == "MemAvailable:") available_size_bytes = value_kib * 1024;
  }
  const std::optional<int64_t> left = Cgroup::of_this_process().memory_left_bytes();
  return std::min(available_size_bytes, left.value_or(available_size_bytes));
}

}  // namespace tandem::offload
