// Kimi-K2 as a ForwardModel: dense part on gpu::Ops, routed experts on cpu_experts. The file to
// read first.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "cpu_experts/dispatch.h"
#include "gpu/devices.h"
#include "gpu/ops.h"
#include "runtime/base/progress.h"
#include "runtime/model/checkpoint.h"
#include "runtime/model/forward_model.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::offload {

struct KimiK2Options {
  int64_t kv_cache_tokens = 0;         // 0: what fits, up to a few contexts
  int32_t max_batch_tokens = 512;      // tokens of one step
  int32_t preferred_batch_tokens = 0;  // in place of them, where there is room (placement.h)
  int32_t max_logit_rows = 64;
  int32_t max_context_tokens = 0;  // 0: max_position_embeddings
  gpu::MlaForm mla_form = gpu::MlaForm::kAuto;
  cpu_experts::ActivationMode expert_activations = cpu_experts::ActivationMode::kBf16;
  // Where the dense part runs: layers and their KV are split over them. All the host, or all cards.
  std::vector<gpu::LogicalDevice> devices = {{}};
  // MoE layers, from the first, whose routed experts lie where the rest of the layer does; absent:
  // as many as fit on cards (placement.h).
  std::optional<int32_t> gpu_expert_layers = 0;
  // Host memory for KV pages that leave the devices' memory; absent: chosen (placement.h).
  std::optional<int64_t> kv_host_size_bytes = 0;
  int32_t min_kv_host_pages = 0;  // taken of it in any case (placement.h)
  // Devices that are not the host compute steps of all sizes before load() returns, so that they
  // have chosen how to.
  bool warm_up = true;
  // Told the memory map before any of it is taken.
  std::function<void(const std::string& memory_map)> on_plan = {};
  // How a device gets its operations; tests have devices of their own.
  std::function<std::unique_ptr<gpu::Ops>(const gpu::LogicalDevice&, WorkerPool&)> make_ops =
      gpu::make_ops;
};

class KimiK2 final : public ForwardModel {
 public:
  // Loads every weight, with progress. Throws LoadError, ConfigError. `checkpoint` and `pool`
  // outlive the model.
  static std::unique_ptr<KimiK2> load(const Checkpoint& checkpoint,
                                      WorkerPool& pool,
                                      const KimiK2Options& options,
                                      const ProgressFn& progress);
  ~KimiK2() override;

  void forward(const Batch& batch, MatrixView<float> logits) override;
  [[nodiscard]] bool chooses_tokens() const override;  // on a card
  void forward_and_choose(const Batch& batch,
                          std::span<const TokenChoice> choices,
                          std::span<int32_t> token_ids) override;
  // Weights come from the checkpoint again, and are loaded as at first; kernels stay chosen. The
  // routed experts in host memory come with the weights.
  void release_memory(const ModelMemory& what) override;
  void restore_memory(const ModelMemory& what, const ProgressFn& progress) override;

  [[nodiscard]] int64_t kv_page_size_bytes() const override;
  void read_kv_pages(std::span<const KvPageBytes> pages) override;
  void write_kv_pages(std::span<const KvPageBytes> pages) override;
  [[nodiscard]] std::string kv_identity() const override;
  [[nodiscard]] int64_t kv_host_size_bytes() const override;

  [[nodiscard]] int32_t vocab_size() const override;
  [[nodiscard]] int32_t num_kv_pages() const override;
  [[nodiscard]] int32_t max_batch_tokens() const override;
  [[nodiscard]] int32_t max_logit_rows() const override;
  [[nodiscard]] int32_t max_context_tokens() const override;

  [[nodiscard]] DecodeReads decode_reads(int32_t num_sequences,
                                         int32_t context_size_tokens) const override;
  [[nodiscard]] double measure_card_gb_per_s() override;
  [[nodiscard]] DeviceLaunches replayed_launches() const override;
  [[nodiscard]] std::string description() const override;

 private:
  struct Impl;
  explicit KimiK2(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::offload
