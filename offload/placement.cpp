#include "offload/placement.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "offload/expert_upload.h"
#include "offload/kv_cache.h"
#include "offload/layer_split.h"
#include "offload/weights.h"
#include "offload/workspace.h"
#include "runtime/base/errors.h"
#include "runtime/model/checkpoint_layout.h"
#include "runtime/model/expert_layout.h"
#include "runtime/model/forward_model.h"

namespace tandem::offload {
namespace {

constexpr int64_t kGiB = int64_t{1} << 30;
// Left in every memory: to the rest of the system and our own small allocations, to the driver's
// kernels and graphs.
constexpr int64_t kReserveSizeBytes = kGiB / 2;
constexpr int64_t kDefaultKvContexts = 16;
// Of what all else leaves of a memory, when the number of pages is ours to choose: the host has
// others to serve, a card has not.
constexpr double kHostKvShare = 0.25;
// Of the host's memory that a plan on cards leaves, when what KV pages get there is ours to choose.
constexpr int64_t kKvHostShare = 2;
constexpr int64_t kMaxChosenKvHostSizeBytes = 32 * kGiB;
constexpr int64_t kMaxKvPages = std::numeric_limits<int32_t>::max() / kPageSizeTokens;

double gib(int64_t size_bytes) {
  return static_cast<double>(size_bytes) / static_cast<double>(kGiB);
}

int64_t pages_of(int64_t num_tokens) {
  return (num_tokens + kPageSizeTokens - 1) / kPageSizeTokens;
}

// Largest value in [low, high] for which `holds` is true; low - 1 when it holds for none. What
// holds for a value holds for smaller ones.
template <typename Predicate>
int64_t largest_that(int64_t low, int64_t high, const Predicate& holds) {
  int64_t known = low - 1;
  while (low <= high) {
    const int64_t middle = low + (high - low) / 2;
    if (holds(middle)) {
      known = middle;
      low = middle + 1;
    } else {
      high = middle - 1;
    }
  }
  return known;
}

// What is left to choose.
struct Choice {
  int64_t num_pages = 0;
  int32_t num_expert_layers = 0;  // on the devices
  int64_t num_kv_host_pages = 0;
};

class Planner {
 public:
  Planner(const Checkpoint& checkpoint,
          const PlacementRequest& request,
          const AvailableMemory& available);

  // The best split of what was chosen, whether it fits or not.
  [[nodiscard]] Placement with(const Choice& choice) const;
  // As many KV pages as were asked for; else enough for several full contexts, but no more than the
  // devices can give, and at least one. Experts as asked for; else what cards have room for then.
  // Host memory for KV pages as asked for; else of what is left last.
  [[nodiscard]] Choice choose() const;
  // What can be done about a plan that does not fit, with a value that fits.
  [[nodiscard]] std::string advice(const Choice& choice) const;

 private:
  [[nodiscard]] std::string advice_on_cards() const;
  [[nodiscard]] std::string advice_on_steps(const Choice& choice) const;
  [[nodiscard]] std::string advice_on_kv_host(const Choice& choice) const;
  [[nodiscard]] DevicePlacement empty_device(size_t device_idx, const Choice& choice) const;
  [[nodiscard]] WorkspaceLimits workspace_limits(const DevicePlacement& part) const {
    return {.max_batch_tokens = request_.max_batch_tokens, .max_logit_rows = part.max_logit_rows};
  }
  [[nodiscard]] int64_t layer_kv_size_bytes(int64_t num_pages) const {
    return num_pages * KvCacheShape{.kv_dim = config_.kv_dim()}.layer_page_size_bytes();
  }
  [[nodiscard]] int64_t page_size_bytes() const {
    return config_.num_hidden_layers * layer_kv_size_bytes(1);
  }
  [[nodiscard]] cpu_experts::MoeExperts::PlannedSize host_experts_size(int32_t num_layers) const {
    if (request_.host_experts_size)
      return request_.host_experts_size(num_layers, request_.max_batch_tokens);
    return {.weights_bytes =
                checkpoint_.resident_expert_size_bytes() / config_.num_moe_layers() * num_layers};
  }
  [[nodiscard]] int64_t choose_pages(Choice choice) const;
  [[nodiscard]] int32_t choose_expert_layers(Choice choice) const;
  [[nodiscard]] int64_t choose_kv_host_pages(const Choice& choice) const;
  [[nodiscard]] std::string advice_on_experts(const Choice& choice) const;
  [[nodiscard]] bool fits_with(const Choice& choice) const;
  [[nodiscard]] bool on_host() const { return request_.devices.front().is_host(); }
  [[nodiscard]] int64_t wanted_context() const {
    return request_.max_context_tokens > 0
               ? std::min(request_.max_context_tokens, config_.max_position_embeddings)
               : config_.max_position_embeddings;
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  PlacementRequest request_;
  AvailableMemory available_;
  std::vector<int64_t> layer_weights_size_bytes_;  // [num_hidden_layers]
  int64_t layer_experts_size_bytes_ = 0;           // of a MoE layer on the devices
};

// Every memory that the plan uses, the host's last.
std::vector<gpu::LogicalDevice> memories_of(const Placement& placement) {
  std::vector<gpu::LogicalDevice> memories;
  for (const DevicePlacement& part : placement.devices) {
    const bool is_new = std::find(memories.begin(), memories.end(), part.device) == memories.end();
    if (!part.device.is_host() && is_new) memories.push_back(part.device);
  }
  memories.emplace_back();
  return memories;
}

bool fits_in(const Placement& placement, const gpu::LogicalDevice& memory) {
  return placement.size_bytes_in(memory) + kReserveSizeBytes <= placement.available_in(memory);
}

bool fits(const Placement& placement) {
  const std::vector<gpu::LogicalDevice> memories = memories_of(placement);
  return std::all_of(memories.begin(), memories.end(),
                     [&](const gpu::LogicalDevice& memory) { return fits_in(placement, memory); });
}

bool fits_on_cards(const Placement& placement) {
  return std::all_of(placement.devices.begin(), placement.devices.end(),
                     [&](const DevicePlacement& part) { return fits_in(placement, part.device); });
}

Planner::Planner(const Checkpoint& checkpoint,
                 const PlacementRequest& request,
                 const AvailableMemory& available)
    : checkpoint_(checkpoint),
      config_(checkpoint.config()),
      request_(request),
      available_(available) {
  for (int32_t layer_idx = 0; layer_idx < config_.num_hidden_layers; ++layer_idx) {
    const gpu::LogicalDevice& device = request_.devices.front();  // all are of one kind
    int64_t size_bytes = gpu::planned_kv_b_extra_size_bytes(device, mla_shape(config_));
    visit_layer_tensors(config_, layer_idx, [&](const ExpectedTensor& tensor) {
      if (tensor.kind != TensorKind::kRoutedExperts)
        size_bytes += gpu::allocation_size_bytes(device, tensor.size_bytes());
    });
    layer_weights_size_bytes_.push_back(size_bytes);
  }
  const gpu::LogicalDevice& device = request_.devices.front();
  layer_experts_size_bytes_ =
      gpu::allocation_size_bytes(
          device,
          config_.n_routed_experts * expert_layout::expert_size_bytes(
                                         config_.hidden_size, config_.moe_intermediate_size)) +
      gpu::allocation_size_bytes(device, config_.n_routed_experts * int64_t{sizeof(std::byte*)});
}

DevicePlacement Planner::empty_device(size_t device_idx, const Choice& choice) const {
  const bool is_first = device_idx == 0;
  const bool is_last = device_idx + 1 == request_.devices.size();
  DevicePlacement part{.device = request_.devices[device_idx]};
  const int64_t norm_size_bytes = config_.hidden_size * int64_t{sizeof(bf16)};
  const int64_t matrix_size_bytes =
      gpu::allocation_size_bytes(part.device, config_.vocab_size * norm_size_bytes);
  part.max_logit_rows = is_last ? request_.max_logit_rows : 0;
  part.weights_size_bytes =
      (is_first ? matrix_size_bytes : 0) + (is_last ? matrix_size_bytes + norm_size_bytes : 0);
  part.workspace_size_bytes =
      Workspace::planned_size_bytes(config_, workspace_limits(part)) +
      request_.ops_size_bytes(
          part.device,
          {.max_batch_tokens = request_.max_batch_tokens,
           .max_logit_rows = request_.max_logit_rows,
           .max_context_tokens = static_cast<int32_t>(wanted_context()),
           .n_routed_experts = config_.n_routed_experts,
           .experts = choice.num_expert_layers > 0 ? experts_shape(config_) : gpu::ExpertsShape{}},
          mla_shape(config_));
  return part;
}

Placement Planner::with(const Choice& choice) const {
  Placement placement;
  placement.available = available_;
  const int32_t num_moe_layers = config_.num_moe_layers();
  placement.num_device_expert_layers = choice.num_expert_layers;
  placement.num_host_expert_layers = num_moe_layers - choice.num_expert_layers;
  if (placement.num_host_expert_layers > 0) {
    const auto size = host_experts_size(placement.num_host_expert_layers);
    placement.host_experts_size_bytes = size.weights_bytes;
    placement.host_experts_work_size_bytes = size.work_bytes;
  }
  placement.num_kv_pages = static_cast<int32_t>(std::min(choice.num_pages, kMaxKvPages));
  placement.max_context_tokens =
      static_cast<int32_t>(std::min(wanted_context(), choice.num_pages * kPageSizeTokens));
  placement.max_batch_tokens = request_.max_batch_tokens;
  placement.kv_host_size_bytes = choice.num_kv_host_pages * page_size_bytes();
  placement.kv_disk_host_size_bytes =
      std::max<int64_t>(request_.min_kv_host_pages - choice.num_kv_host_pages, 0) *
      page_size_bytes();
  if (choice.num_expert_layers > 0) {
    placement.staging_size_bytes += ExpertUpload::planned_size_bytes(config_);
  }
  if (!on_host()) {
    placement.staging_size_bytes += KvCache::planned_host_size_bytes(page_size_bytes());
  }
  for (size_t idx = 0; idx < request_.devices.size(); ++idx) {
    const DevicePlacement part = empty_device(idx, choice);
    placement.staging_size_bytes +=
        Workspace::planned_host_size_bytes(config_, workspace_limits(part), part.device.is_host()) +
        gpu::planned_upload_size_bytes(part.device);
    placement.devices.push_back(part);
  }

  std::vector<DeviceRoom> rooms;
  for (const DevicePlacement& part : placement.devices) {
    const auto num_sharers =
        std::count(request_.devices.begin(), request_.devices.end(), part.device);
    const int64_t others_size_bytes =
        part.device.is_host() ? placement.host_size_bytes_beside_devices() : 0;
    rooms.push_back({.fixed_size_bytes = part.total_size_bytes(),
                     .room_size_bytes = (placement.available_in(part.device) - kReserveSizeBytes -
                                         others_size_bytes) /
                                        num_sharers});
  }
  std::vector<int64_t> experts_size_bytes(layer_weights_size_bytes_.size());
  std::vector<int64_t> layer_size_bytes = layer_weights_size_bytes_;
  for (size_t idx = 0; idx < layer_size_bytes.size(); ++idx) {
    const auto layer_idx = static_cast<int32_t>(idx);
    if (!config_.is_dense(layer_idx) &&
        moe_layer_idx(config_, layer_idx) < choice.num_expert_layers) {
      experts_size_bytes[idx] = layer_experts_size_bytes_;
    }
    layer_size_bytes[idx] += experts_size_bytes[idx] + layer_kv_size_bytes(choice.num_pages);
  }
  const std::vector<int32_t> num_layers = split_layers(layer_size_bytes, rooms);

  int32_t layer_idx = 0;
  for (size_t idx = 0; idx < placement.devices.size(); ++idx) {
    DevicePlacement& part = placement.devices[idx];
    part.first_layer_idx = layer_idx;
    part.num_layers = num_layers[idx];
    part.kv_size_bytes = num_layers[idx] * layer_kv_size_bytes(choice.num_pages);
    for (; layer_idx < part.first_layer_idx + part.num_layers; ++layer_idx) {
      const auto layer = static_cast<size_t>(layer_idx);
      part.weights_size_bytes += layer_weights_size_bytes_[layer];
      part.experts_size_bytes += experts_size_bytes[layer];
      part.num_expert_layers += experts_size_bytes[layer] > 0 ? 1 : 0;
    }
  }
  return placement;
}

bool Planner::fits_with(const Choice& choice) const { return fits(with(choice)); }

Choice Planner::choose() const {
  const int32_t num_moe_layers = config_.num_moe_layers();
  const int32_t wanted = request_.device_expert_layers.value_or(0);
  if (wanted > num_moe_layers) {
    throw ConfigError(
        fmt::format("--gpu-expert-layers {}: the model has {} MoE layers, expected at most as many",
                    wanted, num_moe_layers));
  }
  const bool may_lie_on_devices = config_.n_routed_experts <= gpu::kMaxDeviceExperts;
  if (wanted > 0 && !may_lie_on_devices) {
    throw ConfigError(fmt::format(
        "--gpu-expert-layers {}: the model has {} experts a layer, expected at most {} for that",
        wanted, config_.n_routed_experts, gpu::kMaxDeviceExperts));
  }
  Choice choice{.num_expert_layers = wanted,
                .num_kv_host_pages = request_.kv_host_size_bytes.value_or(0) / page_size_bytes()};
  choice.num_pages = choose_pages(choice);
  if (!request_.device_expert_layers && !on_host() && may_lie_on_devices)
    choice.num_expert_layers = choose_expert_layers(choice);
  if (!request_.kv_host_size_bytes && !on_host())
    choice.num_kv_host_pages = choose_kv_host_pages(choice);
  return choice;
}

int32_t Planner::choose_expert_layers(Choice choice) const {
  const int64_t most = largest_that(1, config_.num_moe_layers(), [&](int64_t num_layers) {
    choice.num_expert_layers = static_cast<int32_t>(num_layers);
    return fits_on_cards(with(choice));
  });
  return static_cast<int32_t>(std::max<int64_t>(most, 0));
}

int64_t Planner::choose_kv_host_pages(const Choice& choice) const {
  const Placement placement = with(choice);
  const int64_t left_size_bytes =
      placement.available_in({}) - kReserveSizeBytes - placement.size_bytes_in({});
  return std::clamp<int64_t>(left_size_bytes / kKvHostShare, 0, kMaxChosenKvHostSizeBytes) /
         page_size_bytes();
}

int64_t Planner::choose_pages(Choice choice) const {
  if (request_.kv_cache_tokens > 0) return pages_of(request_.kv_cache_tokens);
  const auto is_modest = [&](int64_t num_pages) {
    choice.num_pages = num_pages;
    const Placement placement = with(choice);
    if (!on_host()) return fits(placement);
    int64_t kv_size_bytes = 0;
    for (const DevicePlacement& part : placement.devices) kv_size_bytes += part.kv_size_bytes;
    const int64_t left_size_bytes = placement.available_in({}) - kReserveSizeBytes -
                                    (placement.size_bytes_in({}) - kv_size_bytes);
    return static_cast<double>(kv_size_bytes) <=
           kHostKvShare * static_cast<double>(left_size_bytes);
  };
  const int64_t most = std::min(kDefaultKvContexts * pages_of(wanted_context()), kMaxKvPages);
  return std::max<int64_t>(largest_that(1, most, is_modest), 1);
}

// Fewer layers with their experts on the devices: beside the cache that was asked for, or one full
// context, or where that is too much for any number of them, what there is room for.
std::string Planner::advice_on_experts(const Choice& choice) const {
  const int64_t wanted_pages =
      request_.kv_cache_tokens > 0 ? choice.num_pages : pages_of(wanted_context());
  for (const int64_t num_pages : {wanted_pages, int64_t{1}}) {
    const int64_t fitting_layers =
        largest_that(0, choice.num_expert_layers - 1, [&](int64_t num_layers) {
          return fits_with({.num_pages = num_pages,
                            .num_expert_layers = static_cast<int32_t>(num_layers),
                            .num_kv_host_pages = choice.num_kv_host_pages});
        });
    if (fitting_layers < 0) continue;
    return fmt::format("--gpu-expert-layers {} would fit", fitting_layers) +
           (num_pages < wanted_pages && request_.kv_cache_tokens > 0
                ? " with fewer --kv-cache-tokens"
                : "");
  }
  return "";
}

// Less host memory for pages that leave the devices: beside the cache that was asked for there, or
// one full context, or one page.
std::string Planner::advice_on_kv_host(const Choice& choice) const {
  if (choice.num_kv_host_pages == 0 || fits_in(with(choice), {})) return "";
  const bool is_asked = request_.kv_cache_tokens > 0;
  const int64_t most_gib = (choice.num_kv_host_pages * page_size_bytes() - 1) / kGiB;
  Choice less = choice;
  for (const int64_t num_pages : {pages_of(wanted_context()), int64_t{1}}) {
    less.num_pages = is_asked ? choice.num_pages : num_pages;
    const int64_t fitting_gib = largest_that(0, most_gib, [&](int64_t size_gib) {
      less.num_kv_host_pages = size_gib * kGiB / page_size_bytes();
      return fits_with(less);
    });
    if (fitting_gib >= 0) return fmt::format("--kv-host-gib {} would fit", fitting_gib);
  }
  return "";
}

// Fewer KV pages, or a smaller step with them.
std::string Planner::advice_on_steps(const Choice& choice) const {
  const auto with_fewer_pages = [&](const Planner& planner, int64_t most_pages) {
    return largest_that(1, most_pages, [&](int64_t num_pages) {
      Choice fewer = choice;
      fewer.num_pages = num_pages;
      return planner.fits_with(fewer);
    });
  };
  const int64_t fitting_pages = with_fewer_pages(*this, choice.num_pages - 1);
  if (fitting_pages > 0) {
    return fmt::format("--kv-cache-tokens {} would fit", fitting_pages * kPageSizeTokens);
  }
  const auto with_tokens = [&](int64_t max_batch_tokens) {
    PlacementRequest request = request_;
    request.max_batch_tokens = static_cast<int32_t>(max_batch_tokens);
    request.max_logit_rows = std::min(request.max_logit_rows, request.max_batch_tokens);
    return Planner(checkpoint_, request, available_);
  };
  Choice smallest = choice;
  smallest.num_pages = 1;
  const int64_t fitting_tokens =
      largest_that(1, request_.max_batch_tokens - 1,
                   [&](int64_t tokens) { return with_tokens(tokens).fits_with(smallest); });
  if (fitting_tokens <= 0) return "";
  return fmt::format(
      "--max-batch-tokens {} with --kv-cache-tokens {} would fit", fitting_tokens,
      with_fewer_pages(with_tokens(fitting_tokens), choice.num_pages) * kPageSizeTokens);
}

std::string Planner::advice(const Choice& choice) const {
  if (request_.min_kv_host_pages > 0) {
    PlacementRequest without = request_;
    without.min_kv_host_pages = 0;
    if (Planner(checkpoint_, without, available_).fits_with(choice))
      return "without --kv-disk it would fit";
  }
  if (std::string less = advice_on_kv_host(choice); !less.empty()) return less;
  if (std::string fewer = advice_on_experts(choice); !fewer.empty()) return fewer;
  if (std::string smaller = advice_on_steps(choice); !smaller.empty()) return smaller;
  if (choice.num_kv_host_pages > 0 && !fits_in(with(choice), {})) {
    Choice without = choice;
    without.num_kv_host_pages = 0;
    return "--kv-host-gib 0, and " + advice(without);
  }
  const Placement placement = with({.num_pages = 1});
  if (!fits_in(placement, {})) {
    return fmt::format("a machine with {:.1f} GiB of free memory is needed",
                       gib(placement.size_bytes_in({}) + kReserveSizeBytes));
  }
  return advice_on_cards();
}

std::string Planner::advice_on_cards() const {
  PlacementRequest request = request_;
  AvailableMemory available = available_;
  const gpu::LogicalDevice card = request_.devices.front();
  request.ops_size_bytes = [&](const gpu::LogicalDevice&, const gpu::OpsLimits& limits,
                               const gpu::MlaShape& shape) {
    return request_.ops_size_bytes(card, limits, shape);
  };
  std::string list = "0";
  for (int32_t num_cards = 2; num_cards <= std::min(8, config_.num_hidden_layers); ++num_cards) {
    list += fmt::format(",{}", num_cards - 1);
    available.card_size_bytes.assign(static_cast<size_t>(num_cards),
                                     with({.num_pages = 1}).available_in(card));
    request.devices.clear();
    for (int32_t idx = 0; idx < num_cards; ++idx) request.devices.push_back({.card_idx = idx});
    if (Planner(checkpoint_, request, available).fits_with({.num_pages = 1})) {
      return fmt::format("{} cards like {} would hold it (--gpus {}), or --gpus none", num_cards,
                         gpu::name_of(card), list);
    }
  }
  return "--gpus none computes on the CPU";
}

// Whether a plan of larger steps has what nobody would give for them: the context, the experts on
// cards, which every decode is faster for, and seven eighths of the KV pages.
bool takes_nothing_from(const Placement& needed, const Placement& preferred) {
  return preferred.max_context_tokens == needed.max_context_tokens &&
         preferred.num_host_expert_layers == needed.num_host_expert_layers &&
         preferred.num_kv_pages >= needed.num_kv_pages - needed.num_kv_pages / 8;
}

}  // namespace

int64_t Placement::kv_page_size_bytes() const {
  int64_t kv_size_bytes = 0;
  for (const DevicePlacement& part : devices) kv_size_bytes += part.kv_size_bytes;
  return kv_size_bytes / num_kv_pages;
}

int64_t Placement::host_size_bytes_beside_devices() const {
  return host_experts_size_bytes + host_experts_work_size_bytes + staging_size_bytes +
         kv_host_size_bytes + kv_disk_host_size_bytes;
}

int64_t Placement::size_bytes_in(const gpu::LogicalDevice& memory) const {
  int64_t size_bytes = memory.is_host() ? host_size_bytes_beside_devices() : 0;
  for (const DevicePlacement& part : devices) {
    if (part.device == memory) size_bytes += part.total_size_bytes();
  }
  return size_bytes;
}

int64_t Placement::available_in(const gpu::LogicalDevice& memory) const {
  if (!memory.is_host()) return available.card_size_bytes.at(static_cast<size_t>(memory.card_idx));
  // Experts lie in reserved pages all together or not at all.
  const bool in_huge_pages = available.huge_page_size_bytes >= host_experts_size_bytes;
  return available.host_size_bytes + (in_huge_pages ? host_experts_size_bytes : 0);
}

int64_t Placement::dense_size_bytes() const {
  int64_t size_bytes = 0;
  for (const DevicePlacement& part : devices) size_bytes += part.weights_size_bytes;
  return size_bytes;
}

int64_t Placement::experts_size_bytes() const {
  int64_t size_bytes = host_experts_size_bytes;
  for (const DevicePlacement& part : devices) size_bytes += part.experts_size_bytes;
  return size_bytes;
}

Placement plan_placement(const Checkpoint& checkpoint,
                         const PlacementRequest& request,
                         const AvailableMemory& available) {
  const auto num_layers = static_cast<size_t>(checkpoint.config().num_hidden_layers);
  if (request.devices.size() > num_layers) {
    throw ConfigError(fmt::format("{} logical devices for {} layers, expected at most one a layer",
                                  request.devices.size(), num_layers));
  }
  const Planner planner(checkpoint, request, available);
  const Choice choice = planner.choose();
  if (choice.num_pages > kMaxKvPages) {
    throw ConfigError(fmt::format("kv_cache_tokens is {}, expected at most {}",
                                  request.kv_cache_tokens, std::numeric_limits<int32_t>::max()));
  }
  Placement placement = planner.with(choice);
  for (const gpu::LogicalDevice& memory : memories_of(placement)) {
    if (fits_in(placement, memory)) continue;
    throw LoadError(fmt::format(
        "the model does not fit in the memory of {}: {:.2f} GiB needed (and {:.2f} GiB left for "
        "the system), {:.2f} GiB available\n{}{}",
        memory.is_host() ? "the host" : gpu::name_of(memory), gib(placement.size_bytes_in(memory)),
        gib(kReserveSizeBytes), gib(placement.available_in(memory)), format_memory_map(placement),
        planner.advice(choice)));
  }
  if (request.preferred_batch_tokens <= request.max_batch_tokens) return placement;
  PlacementRequest larger = request;
  larger.max_batch_tokens = request.preferred_batch_tokens;
  const Planner larger_planner(checkpoint, larger, available);
  Placement preferred = larger_planner.with(larger_planner.choose());
  return fits(preferred) && takes_nothing_from(placement, preferred) ? preferred : placement;
}

Placement with_available(Placement placement, const AvailableMemory& available) {
  placement.available = available;
  return placement;
}

void check_room(const Placement& placement,
                const ModelMemory& what,
                bool with_workspace,
                const AvailableMemory& available) {
  const Placement now = with_available(placement, available);
  for (const gpu::LogicalDevice& memory : memories_of(now)) {
    int64_t size_bytes = memory.is_host() && what.host_weights
                             ? now.host_experts_size_bytes + now.host_experts_work_size_bytes
                             : int64_t{0};
    for (const DevicePlacement& part : now.devices) {
      if (part.device != memory) continue;
      if (what.weights) size_bytes += part.weights_size_bytes + part.experts_size_bytes;
      if (what.kv_cache) size_bytes += part.kv_size_bytes;
      if (with_workspace) size_bytes += part.workspace_size_bytes;
    }
    if (size_bytes <= now.available_in(memory)) continue;
    throw LoadError(fmt::format(
        "the memory of {} that was given back is not free any more: {:.3f} GiB needed, {:.3f} GiB "
        "available\n{}",
        memory.is_host() ? "the host" : gpu::name_of(memory), gib(size_bytes),
        gib(now.available_in(memory)), format_memory_map(now)));
  }
}

std::string format_memory_map(const Placement& placement) {
  const auto line = [](std::string_view what, int64_t size_bytes, const std::string& remark) {
    return fmt::format("  {:<16}{:>9.3f} GiB  {}\n", what, gib(size_bytes), remark);
  };
  std::string map = "memory map\n";
  for (const DevicePlacement& part : placement.devices) {
    map += fmt::format("{}, layers {} to {}\n", gpu::name_of(part.device), part.first_layer_idx,
                       part.first_layer_idx + part.num_layers - 1);
    map += line("dense weights", part.weights_size_bytes, "BF16");
    if (part.num_expert_layers > 0) {
      map += line("routed experts", part.experts_size_bytes,
                  fmt::format("INT4, of {} MoE layers", part.num_expert_layers));
    }
    map += line("KV cache", part.kv_size_bytes,
                fmt::format("{} tokens in pages of {}, context up to {}",
                            int64_t{placement.num_kv_pages} * kPageSizeTokens, kPageSizeTokens,
                            placement.max_context_tokens));
    map += line("workspace", part.workspace_size_bytes,
                fmt::format("for steps of up to {} tokens", placement.max_batch_tokens));
  }
  map += "host, experts\n";
  if (placement.num_host_expert_layers > 0) {
    map += line(
        "routed experts", placement.host_experts_size_bytes,
        fmt::format("INT4, 4.5 bits a weight, of {} MoE layers", placement.num_host_expert_layers));
    map += line("workspace", placement.host_experts_work_size_bytes, "");
  }
  map += line("staging", placement.staging_size_bytes, "between experts and dense part");
  if (placement.kv_host_size_bytes > 0) {
    map += line("KV pages", placement.kv_host_size_bytes,
                fmt::format("{} tokens that leave the KV cache (--kv-host-gib)",
                            placement.kv_host_size_bytes / placement.kv_page_size_bytes() *
                                kPageSizeTokens));
  }
  if (placement.kv_disk_host_size_bytes > 0) {
    map += line("KV pages", placement.kv_disk_host_size_bytes,
                "on their way to disk and back (--kv-disk)");
  }
  map += "total\n";
  for (const gpu::LogicalDevice& memory : memories_of(placement)) {
    map += line(gpu::name_of(memory), placement.size_bytes_in(memory),
                fmt::format("of {:.3f} GiB available", gib(placement.available_in(memory))));
  }
  return map;
}

}  // namespace tandem::offload
