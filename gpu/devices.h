// The NVIDIA cards of this machine, as far as this build can see them, and the logical devices that
// a model's dense part is spread over.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "gpu/ops.h"

namespace tandem::gpu {

// Of a card that the kernels are for, as CudaDevice::compute_capability: Ampere and later.
inline constexpr int32_t kMinComputeCapability = 80;

struct CudaDevice {
  std::string name = {};  // "NVIDIA H200"
  int64_t memory_size_bytes = 0;
  int32_t compute_capability = 0;  // 90 for Hopper
};

struct CudaSupport {
  bool in_build = false;                 // compiled with TANDEM_WITH_CUDA
  std::string runtime_version = {};      // "13.0"; "" without CUDA in the build
  std::vector<CudaDevice> devices = {};  // in the driver's order
  std::string problem = {};  // why `devices` is empty: no driver, no card, not in the build
};

CudaSupport detect_cuda();
std::string describe(
    const CudaSupport& support);  // one line, for `tandem version` and the start-up log

// A device as the model sees it. Several may lie on one card, or on the host: the code that spreads
// a model over two cards then runs, and is tested, with one or none.
struct LogicalDevice {
  static constexpr int32_t kHost = -1;
  int32_t card_idx = kHost;  // in the driver's order
  [[nodiscard]] bool is_host() const { return card_idx == kHost; }
  bool operator==(const LogicalDevice&) const = default;
};
std::string name_of(const LogicalDevice& device);  // "host", "GPU 0"

// What --gpus says, first layers first: "none", or cards, "0", "0,1", "0,0" for two logical devices
// on one card ("none,none" for two on the host). "": the first card that the kernels are for, else
// the host. Throws ConfigError for anything else, or a card that is not there, with the reason.
std::vector<LogicalDevice> choose_devices(std::string_view gpus, const CudaSupport& support);

// The operations on `device`. `pool` computes for the host and outlives them. Throws ConfigError
// for a card without CUDA in the build, LoadError where it cannot be used.
std::unique_ptr<Ops> make_ops(const LogicalDevice& device, WorkerPool& pool);

// What is free of a card's memory now; makes the driver set the card up for this process. Throws
// ConfigError for a card without CUDA in the build, CudaError.
int64_t free_card_size_bytes(int32_t card_idx);

// What an allocation of `size_bytes` takes of the device's memory: a card gives it in large pages.
int64_t allocation_size_bytes(const LogicalDevice& device, int64_t size_bytes);

// What a layer's kv_b_proj takes besides its own size: a card keeps a part of it transposed as
// well.
int64_t planned_kv_b_extra_size_bytes(const LogicalDevice& device, const MlaShape& shape);

// Memory that the operations take for themselves beside what they are asked for: on the device in
// reserve(), and on the host while weights are uploaded. Of the host as a device what its routed
// experts take; for a card in a build without CUDA 0.
int64_t planned_ops_size_bytes(const LogicalDevice& device,
                               const OpsLimits& limits,
                               const MlaShape& shape);
int64_t planned_upload_size_bytes(const LogicalDevice& device);

}  // namespace tandem::gpu
