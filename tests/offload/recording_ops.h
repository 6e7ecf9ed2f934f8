// A device for tests that behaves like a card: its memory is not the host's, work waits until it
// has to be done, decode steps have rows behind their tokens and are recorded and replayed. It
// computes with the host's operations, so that every bit can be compared.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gpu/ops.h"

namespace tandem::tests {

class RecordingOps : public gpu::Ops {
 public:
  explicit RecordingOps(WorkerPool& pool) : inner_(gpu::make_host_ops(pool)) {}

  // Segments that were recorded, and that were replayed, so far.
  [[nodiscard]] int64_t num_recorded() const { return num_recorded_; }
  [[nodiscard]] int64_t num_replayed() const { return num_replayed_; }

  [[nodiscard]] std::string description() const override { return "recording"; }
  [[nodiscard]] std::string arithmetic() const override { return inner_->arithmetic(); }
  [[nodiscard]] bool memory_is_host() const override { return false; }

  std::unique_ptr<gpu::DeviceBuffer> allocate(size_t size_bytes) override {
    return inner_->allocate(size_bytes);
  }
  std::unique_ptr<gpu::DeviceBuffer> upload(std::span<const std::byte> host_bytes) override {
    return inner_->upload(host_bytes);
  }
  std::unique_ptr<gpu::LinearWeight> load_linear(MatrixView<const bf16> weight) override {
    return inner_->load_linear(weight);
  }
  std::unique_ptr<gpu::LinearWeight> load_linear(
      std::span<const MatrixView<const bf16>> weights) override {
    return inner_->load_linear(weights);
  }
  std::unique_ptr<gpu::KvBWeight> load_kv_b(MatrixView<const bf16> kv_b_proj,
                                            const gpu::MlaShape& shape) override {
    return inner_->load_kv_b(kv_b_proj, shape);
  }
  std::unique_ptr<gpu::ExpertsWeight> load_experts(const gpu::ExpertsShape& shape,
                                                   PackedExpert packed_expert) override {
    return inner_->load_experts(shape, packed_expert);
  }
  void reserve(const gpu::OpsLimits& limits, const gpu::MlaShape& shape) override;
  void release() override;
  std::unique_ptr<gpu::DeviceBuffer> allocate_host(size_t size_bytes) override {
    return inner_->allocate_host(size_bytes);
  }

  int64_t begin_step(const Batch& batch, gpu::MlaForm form) override;
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
  void linear(MatrixView<const bf16> x,
              const gpu::LinearWeight& weight,
              MatrixView<float> out) override;
  void linear(MatrixView<const bf16> x,
              const gpu::LinearWeight& weight,
              MatrixView<bf16> out) override;
  void linear_add(MatrixView<const bf16> x,
                  const gpu::LinearWeight& weight,
                  MatrixView<float> out) override;
  void rope_and_append_kv(const gpu::MlaShape& shape,
                          const RopeKvParams& params,
                          MatrixView<bf16> q,
                          MatrixView<const float> kv_a,
                          const gpu::KvCacheLayer& cache) override;
  void mla_attention(const gpu::MlaShape& shape,
                     MatrixView<const bf16> q,
                     const gpu::KvBWeight& kv_b,
                     const gpu::KvCacheLayer& cache,
                     MatrixView<bf16> out) override;
  void swiglu(MatrixView<const float> gate_up, MatrixView<bf16> out) override;
  void linear_swiglu(MatrixView<const bf16> x,
                     const gpu::LinearWeight& weight,
                     MatrixView<float> gate_up,
                     MatrixView<bf16> out) override;
  void router_topk(MatrixView<const bf16> hidden,
                   const gpu::LinearWeight& gate,
                   std::span<const float> e_score_correction_bias,
                   const gpu::RouterParams& params,
                   MatrixView<bf16> hidden_copy,
                   MatrixView<int32_t> expert_ids,
                   MatrixView<float> expert_weights) override;
  void add_routed_experts(MatrixView<const bf16> hidden,
                          const gpu::ExpertsWeight& experts,
                          MatrixView<const int32_t> expert_ids,
                          MatrixView<const float> expert_weights,
                          MatrixView<float> residual) override;
  void gather_logit_rows(MatrixView<const float> x, MatrixView<float> out) override;
  void sample(MatrixView<const float> logits,
              std::span<const TokenChoice> choices,
              std::span<int32_t> token_ids) override;
  void copy_to_host(std::span<const std::byte> device, std::span<std::byte> host) override;
  void copy_to_device(std::span<const std::byte> host, std::span<std::byte> device) override;
  void receive(gpu::Ops& source, MatrixView<const float> from, MatrixView<float> to) override;
  void submit() override;
  void synchronize() override;

 private:
  using Work = std::vector<std::function<void()>>;
  struct Segment {
    int num_runs = 0;
    Work recorded;
  };

  void enqueue(std::function<void()> operation);
  [[nodiscard]] Segment& segment() { return segments_[{segment_idx_, num_rows_}]; }
  [[nodiscard]] bool replays() { return is_decode_ && segment().num_runs >= 2; }

  std::unique_ptr<gpu::Ops> inner_;
  int32_t max_rows_ = 0;
  // Of the step.
  std::vector<int32_t> token_ids_;        // padded
  std::vector<int32_t> logit_token_idx_;  // padded
  std::vector<TokenChoice> choices_;
  bool is_decode_ = false;
  int64_t num_rows_ = 0;
  int32_t segment_idx_ = 0;
  bool segment_has_work_ = false;
  Work enqueued_;   // of the segment
  Work submitted_;  // and not done
  std::map<std::pair<int32_t, int64_t>, Segment> segments_;
  int64_t num_recorded_ = 0;
  int64_t num_replayed_ = 0;
};

}  // namespace tandem::tests
