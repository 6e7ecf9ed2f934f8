// The CPU as a device (gpu/ops.h). Everything runs on the calling thread and the worker pool and is
// complete when a call returns.
#pragma once

#include <memory>
#include <string>

#include "gpu/host/attention.h"
#include "gpu/host/experts.h"
#include "gpu/host/kernels.h"
#include "gpu/host/linear.h"
#include "gpu/ops.h"
#include "runtime/sampling/sampler.h"

namespace tandem::gpu::host {

// make_host_ops with kernels of one's choice: tests run each instruction set of the CPU.
std::unique_ptr<Ops> make_host_ops(WorkerPool& pool, const Kernels& kernels);

class HostOps : public Ops {
 public:
  HostOps(WorkerPool& pool, const Kernels& kernels);

  [[nodiscard]] std::string description() const override;
  [[nodiscard]] std::string arithmetic() const override;
  [[nodiscard]] bool memory_is_host() const override { return true; }

  std::unique_ptr<DeviceBuffer> allocate(size_t size_bytes) override;
  std::unique_ptr<DeviceBuffer> upload(std::span<const std::byte> host_bytes) override;
  std::unique_ptr<LinearWeight> load_linear(MatrixView<const bf16> weight) override;
  std::unique_ptr<LinearWeight> load_linear(
      std::span<const MatrixView<const bf16>> weights) override;
  std::unique_ptr<KvBWeight> load_kv_b(MatrixView<const bf16> kv_b_proj,
                                       const MlaShape& shape) override;
  std::unique_ptr<ExpertsWeight> load_experts(const ExpertsShape& shape,
                                              PackedExpert packed_expert) override {
    return std::make_unique<HostExperts>(shape, packed_expert);
  }
  void reserve(const OpsLimits& limits, const MlaShape& shape) override;
  void release() override;
  std::unique_ptr<DeviceBuffer> allocate_host(size_t size_bytes) override;

  int64_t begin_step(const Batch& batch, MlaForm form) override {
    batch_ = batch;
    form_ = form;
    return static_cast<int64_t>(batch.token_ids.size());
  }
  void embed(MatrixView<const bf16> table, MatrixView<float> residual) override;
  void rms_norm(MatrixView<const float> x,
                std::span<const bf16> weight,
                float eps,
                MatrixView<bf16> out) override;
  void add_rms_norm(std::span<const MatrixView<const float>> addends,
                    MatrixView<float> x,
                    std::span<const bf16> weight,
                    float eps,
                    MatrixView<bf16> out) override;
  void add(std::span<const MatrixView<const float>> addends, MatrixView<float> x) override;
  void linear(MatrixView<const bf16> x, const LinearWeight& weight, MatrixView<float> out) override;
  void linear(MatrixView<const bf16> x, const LinearWeight& weight, MatrixView<bf16> out) override;
  void linear_add(MatrixView<const bf16> x,
                  const LinearWeight& weight,
                  MatrixView<float> out) override;
  void rope_and_append_kv(const MlaShape& shape,
                          const RopeKvParams& params,
                          MatrixView<bf16> q,
                          MatrixView<const float> kv_a,
                          const KvCacheLayer& cache) override;
  void mla_attention(const MlaShape& shape,
                     MatrixView<const bf16> q,
                     const KvBWeight& kv_b,
                     const KvCacheLayer& cache,
                     MatrixView<bf16> out) override;
  void swiglu(MatrixView<const float> gate_up, MatrixView<bf16> out) override;
  void linear_swiglu(MatrixView<const bf16> x,
                     const LinearWeight& weight,
                     MatrixView<float> gate_up,
                     MatrixView<bf16> out) override;
  void router_topk(MatrixView<const bf16> hidden,
                   const LinearWeight& gate,
                   std::span<const float> e_score_correction_bias,
                   const RouterParams& params,
                   MatrixView<bf16> hidden_copy,
                   MatrixView<int32_t> expert_ids,
                   MatrixView<float> expert_weights) override;
  void add_routed_experts(MatrixView<const bf16> hidden,
                          const ExpertsWeight& experts,
                          MatrixView<const int32_t> expert_ids,
                          MatrixView<const float> expert_weights,
                          MatrixView<float> residual) override;
  void gather_logit_rows(MatrixView<const float> x, MatrixView<float> out) override;
  void sample(MatrixView<const float> logits,
              std::span<const TokenChoice> choices,
              std::span<int32_t> token_ids) override;
  void copy_to_host(std::span<const std::byte> device, std::span<std::byte> host) override;
  void copy_to_device(std::span<const std::byte> host, std::span<std::byte> device) override;
  void receive(Ops& source, MatrixView<const float> from, MatrixView<float> to) override;
  void submit() override {}
  void synchronize() override {}

 private:
  // task(row_idx, col_begin, col_end) for every row, in parallel: cut by rows, or, where there are
  // fewer rows than workers, each row by columns. For work whose columns are independent.
  template <typename Task>
  void for_each_row(int64_t num_rows, int64_t num_cols, const Task& task);
  // task(row_idx) for every row; `cost` elements of work a row.
  template <typename Task>
  void for_each_whole_row(int64_t num_rows, int64_t cost, const Task& task);

  const Kernels& kernels_;
  WorkerPool& pool_;
  LinearProduct linear_;
  MlaAttention attention_;
  ExpertProducts experts_;
  HostMemory router_scores_;
  SamplerScratch sampler_scratch_;
  // Of the step.
  Batch batch_;
  MlaForm form_ = MlaForm::kAuto;
};

}  // namespace tandem::gpu::host
