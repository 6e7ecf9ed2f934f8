#include "gpu/devices.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "gpu/host/experts.h"
#include "runtime/base/errors.h"

#ifdef TANDEM_WITH_CUDA
#include "gpu/cuda/cuda_ops.h"
#include "gpu/cuda/device_query.h"
#endif

namespace tandem::gpu {
namespace {

constexpr size_t kMaxDevices = 16;
// The driver's: what is larger than half of one comes in whole ones, smaller things share them.
constexpr int64_t kCardPageSizeBytes = int64_t{2} << 20;

std::vector<std::string_view> split_at_commas(std::string_view text) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t comma = text.find(',');
    parts.push_back(text.substr(0, comma));
    if (comma == std::string_view::npos) return parts;
    text.remove_prefix(comma + 1);
  }
}

LogicalDevice parse_device(std::string_view part, std::string_view gpus) {
  if (part == "none") return {};
  LogicalDevice device;
  const auto [end, error] =
      std::from_chars(part.data(), part.data() + part.size(), device.card_idx);
  if (part.empty() || error != std::errc() || end != part.data() + part.size() ||
      device.card_idx < 0) {
    throw ConfigError(fmt::format(
        "--gpus {}: expected none, or cards by number with commas between them (0 or 0,1)", gpus));
  }
  return device;
}

void check_card(const LogicalDevice& device, std::string_view gpus, const CudaSupport& support) {
  if (device.is_host()) return;
  const size_t num_cards = support.devices.size();
  if (static_cast<size_t>(device.card_idx) < num_cards) return;
  throw ConfigError(
      num_cards == 0
          ? fmt::format("--gpus {}: {}; --gpus none computes on the CPU", gpus, support.problem)
          : fmt::format("--gpus {}: there is no card {}, expected at most {}", gpus,
                        device.card_idx, num_cards - 1));
}

}  // namespace

CudaSupport detect_cuda() {
#ifdef TANDEM_WITH_CUDA
  return cuda::query_devices();
#else
  return {.in_build = false,
          .runtime_version = "",
          .devices = {},
          .problem = "built without CUDA (./run --with-cuda builds with it)"};
#endif
}

std::string describe(const CudaSupport& support) {
  if (!support.in_build) return support.problem;
  std::string text = fmt::format("CUDA {} in the build", support.runtime_version);
  if (support.devices.empty()) return fmt::format("{}, no device: {}", text, support.problem);
  for (const CudaDevice& device : support.devices) {
    const bool is_old = device.compute_capability < kMinComputeCapability;
    text += fmt::format(
        ", {} (sm_{}{}, {:.1f} GiB)", device.name, device.compute_capability,
        is_old ? fmt::format(": not used, expected is sm_{} or later", kMinComputeCapability) : "",
        static_cast<double>(device.memory_size_bytes) / (1 << 30));
  }
  return text;
}

std::string name_of(const LogicalDevice& device) {
  return device.is_host() ? "host" : fmt::format("GPU {}", device.card_idx);
}

std::vector<LogicalDevice> choose_devices(std::string_view gpus, const CudaSupport& support) {
  if (gpus.empty()) {
    const auto found =
        std::find_if(support.devices.begin(), support.devices.end(), [](const CudaDevice& device) {
          return device.compute_capability >= kMinComputeCapability;
        });
    if (found == support.devices.end()) return {LogicalDevice{}};
    return {LogicalDevice{.card_idx = static_cast<int32_t>(found - support.devices.begin())}};
  }
  std::vector<LogicalDevice> devices;
  for (const std::string_view part : split_at_commas(gpus)) {
    devices.push_back(parse_device(part, gpus));
    check_card(devices.back(), gpus, support);
    if (devices.back().is_host() != devices.front().is_host()) {
      throw ConfigError(fmt::format("--gpus {}: none and cards do not go together", gpus));
    }
  }
  if (devices.size() > kMaxDevices) {
    throw ConfigError(fmt::format("--gpus {}: {} logical devices, expected at most {}", gpus,
                                  devices.size(), kMaxDevices));
  }
  return devices;
}

std::unique_ptr<Ops> make_ops(const LogicalDevice& device, WorkerPool& pool) {
  if (device.is_host()) return make_host_ops(pool);
#ifdef TANDEM_WITH_CUDA
  return cuda::make_cuda_ops(device.card_idx);
#else
  throw ConfigError(name_of(device) + ": this build computes on the CPU only");
#endif
}

int64_t free_card_size_bytes([[maybe_unused]] int32_t card_idx) {
#ifdef TANDEM_WITH_CUDA
  return cuda::free_size_bytes(card_idx);
#else
  throw ConfigError(detect_cuda().problem);
#endif
}

int64_t allocation_size_bytes(const LogicalDevice& device, int64_t size_bytes) {
  if (device.is_host()) return size_bytes;
  const int64_t page_size_bytes = size_bytes < kCardPageSizeBytes / 2 ? 512 : kCardPageSizeBytes;
  return (size_bytes + page_size_bytes - 1) / page_size_bytes * page_size_bytes;
}

int64_t planned_kv_b_extra_size_bytes(const LogicalDevice& device,
                                      [[maybe_unused]] const MlaShape& shape) {
  if (device.is_host()) return 0;
#ifdef TANDEM_WITH_CUDA
  return allocation_size_bytes(device, cuda::planned_kv_b_extra_size_bytes(shape));
#else
  return 0;
#endif
}

int64_t planned_ops_size_bytes(const LogicalDevice& device,
                               const OpsLimits& limits,
                               [[maybe_unused]] const MlaShape& shape) {
  if (device.is_host()) return host::ExpertProducts::planned_size_bytes(limits);
#ifdef TANDEM_WITH_CUDA
  return cuda::planned_ops_size_bytes(device.card_idx, limits, shape);
#else
  return 0;
#endif
}

int64_t planned_upload_size_bytes(const LogicalDevice& device) {
  if (device.is_host()) return 0;
#ifdef TANDEM_WITH_CUDA
  return cuda::planned_upload_size_bytes();
#else
  return 0;
#endif
}

}  // namespace tandem::gpu
