#include "offload/expert_upload.h"

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <span>

#include "cpu_experts/expert_weights.h"
#include "offload/weights.h"
#include "runtime/model/expert_layout.h"

namespace tandem::offload {
namespace {

// Packed while the ones before are copied by the device: 200 MB of Kimi-K2's.
constexpr int32_t kExpertsAtATime = 8;

int64_t size_bytes_of(const ModelConfig& config) {
  return expert_layout::expert_size_bytes(config.hidden_size, config.moe_intermediate_size);
}

}  // namespace

ExpertUpload::ExpertUpload(const ModelConfig& config, WorkerPool& pool)
    : pool_(pool),
      shape_(experts_shape(config)),
      expert_size_bytes_(size_bytes_of(config)),
      packed_(planned_size_bytes(config), -1) {}

int64_t ExpertUpload::planned_size_bytes(const ModelConfig& config) {
  return kExpertsAtATime * size_bytes_of(config);
}

std::unique_ptr<gpu::ExpertsWeight> ExpertUpload::upload_layer(
    gpu::Ops& ops,
    ExpertReader& reader,
    int32_t layer_idx,
    const std::function<void(int64_t size_bytes)>& report) {
  return ops.load_experts(shape_, [&](int32_t expert_idx) {
    const int32_t slot = expert_idx % kExpertsAtATime;
    if (slot == 0) pack(reader, layer_idx, expert_idx);
    report(expert_size_bytes_);
    return std::span<const std::byte>(packed_.data() + slot * expert_size_bytes_,
                                      static_cast<size_t>(expert_size_bytes_));
  });
}

void ExpertUpload::pack(ExpertReader& reader, int32_t layer_idx, int32_t first_expert_idx) {
  const int32_t num_experts = std::min(kExpertsAtATime, shape_.n_routed_experts - first_expert_idx);
  // A tensor may be bad; workers may not throw: the first error is thrown again here.
  std::exception_ptr error;
  std::mutex error_mutex;
  std::atomic<bool> failed{false};
  pool_.run([&](const WorkerPool::Worker& worker) {
    try {
      for (int32_t slot = worker.worker_idx; slot < num_experts && !failed;
           slot += pool_.num_workers()) {
        cpu_experts::pack_expert(
            reader.expert(layer_idx, first_expert_idx + slot, worker.worker_idx),
            {.begin = 0, .size = shape_.moe_intermediate_size},
            packed_.data() + slot * expert_size_bytes_);
      }
    } catch (...) {
      const std::lock_guard lock(error_mutex);
      if (!failed.exchange(true)) error = std::current_exception();
    }
  });
  if (error) std::rethrow_exception(error);
}

}  // namespace tandem::offload
