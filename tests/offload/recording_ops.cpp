#include "tests/offload/recording_ops.h"

#include <algorithm>
#include <cstring>

#include "gpu/cuda/core/segment_cache.h"
#include "runtime/base/check.h"

namespace tandem::tests {

void RecordingOps::reserve(const gpu::OpsLimits& limits, const gpu::MlaShape& shape) {
  max_rows_ = std::min(limits.max_batch_tokens, limits.max_logit_rows);
  inner_->reserve(limits, shape);
}

void RecordingOps::release() {
  synchronize();
  segments_.clear();
  inner_->release();
}

int64_t RecordingOps::begin_step(const Batch& batch, gpu::MlaForm form) {
  TANDEM_CHECK(enqueued_.empty() && submitted_.empty(), "a step begins before the last has ended");
  const int32_t bucket = gpu::cuda::decode_bucket(batch, max_rows_);
  is_decode_ = bucket > 0;
  num_rows_ = is_decode_ ? bucket : static_cast<int64_t>(batch.token_ids.size());
  segment_idx_ = 0;
  segment_has_work_ = false;
  token_ids_.assign(batch.token_ids.begin(), batch.token_ids.end());
  logit_token_idx_.assign(batch.logit_token_idx.begin(), batch.logit_token_idx.end());
  if (is_decode_) {
    token_ids_.resize(static_cast<size_t>(num_rows_), 0);
    logit_token_idx_.resize(static_cast<size_t>(num_rows_), 0);
  }
  // The host's operations go by the items for whatever touches pages, by the ids for rows.
  inner_->begin_step(
      {.token_ids = token_ids_, .items = batch.items, .logit_token_idx = logit_token_idx_}, form);
  return num_rows_;
}

void RecordingOps::enqueue(std::function<void()> operation) {
  segment_has_work_ = true;
  if (!replays()) enqueued_.push_back(std::move(operation));
}

void RecordingOps::submit() {
  if (!segment_has_work_) return;
  if (replays()) {
    const Work& recorded = segment().recorded;
    submitted_.insert(submitted_.end(), recorded.begin(), recorded.end());
    ++num_replayed_;
  } else {
    submitted_.insert(submitted_.end(), enqueued_.begin(), enqueued_.end());
    if (is_decode_ && ++segment().num_runs == 2) {
      segment().recorded = std::move(enqueued_);
      ++num_recorded_;
    }
    enqueued_.clear();
  }
  ++segment_idx_;
  segment_has_work_ = false;
}

void RecordingOps::synchronize() {
  submit();
  for (const std::function<void()>& operation : submitted_) operation();
  submitted_.clear();
}

void RecordingOps::receive(gpu::Ops& source, MatrixView<const float> from, MatrixView<float> to) {
  TANDEM_CHECK(from.rows == to.rows && from.cols == to.cols, "receive: shapes");
  source.synchronize();
  synchronize();
  for (int64_t row = 0; row < to.rows; ++row) {
    std::memcpy(&to(row, 0), &from(row, 0), static_cast<size_t>(to.cols) * sizeof(float));
  }
}

void RecordingOps::embed(MatrixView<const bf16> table, MatrixView<float> residual) {
  enqueue([this, table, residual] { inner_->embed(table, residual); });
}

void RecordingOps::rms_norm(MatrixView<const float> x,
                            std::span<const bf16> weight,
                            float eps,
                            MatrixView<bf16> out) {
  enqueue([=, this] { inner_->rms_norm(x, weight, eps, out); });
}

// Spans of views are the caller's only until the call returns.
void RecordingOps::add_rms_norm(std::span<const MatrixView<const float>> addends,
                                MatrixView<float> x,
                                std::span<const bf16> weight,
                                float eps,
                                MatrixView<bf16> out) {
  enqueue([=, this, views = std::vector(addends.begin(), addends.end())] {
    inner_->add_rms_norm(views, x, weight, eps, out);
  });
}

void RecordingOps::add(std::span<const MatrixView<const float>> addends, MatrixView<float> x) {
  enqueue(
      [=, this, views = std::vector(addends.begin(), addends.end())] { inner_->add(views, x); });
}

void RecordingOps::linear(MatrixView<const bf16> x,
                          const gpu::LinearWeight& weight,
                          MatrixView<float> out) {
  enqueue([=, this, &weight] { inner_->linear(x, weight, out); });
}

void RecordingOps::linear(MatrixView<const bf16> x,
                          const gpu::LinearWeight& weight,
                          MatrixView<bf16> out) {
  enqueue([=, this, &weight] { inner_->linear(x, weight, out); });
}

void RecordingOps::linear_add(MatrixView<const bf16> x,
                              const gpu::LinearWeight& weight,
                              MatrixView<float> out) {
  enqueue([=, this, &weight] { inner_->linear_add(x, weight, out); });
}

void RecordingOps::rope_and_append_kv(const gpu::MlaShape& shape,
                                      const RopeKvParams& params,
                                      MatrixView<bf16> q,
                                      MatrixView<const float> kv_a,
                                      const gpu::KvCacheLayer& cache) {
  enqueue([=, this] { inner_->rope_and_append_kv(shape, params, q, kv_a, cache); });
}

void RecordingOps::mla_attention(const gpu::MlaShape& shape,
                                 MatrixView<const bf16> q,
                                 const gpu::KvBWeight& kv_b,
                                 const gpu::KvCacheLayer& cache,
                                 MatrixView<bf16> out) {
  enqueue([=, this, &kv_b] { inner_->mla_attention(shape, q, kv_b, cache, out); });
}

void RecordingOps::swiglu(MatrixView<const float> gate_up, MatrixView<bf16> out) {
  enqueue([=, this] { inner_->swiglu(gate_up, out); });
}

void RecordingOps::linear_swiglu(MatrixView<const bf16> x,
                                 const gpu::LinearWeight& weight,
                                 MatrixView<float> gate_up,
                                 MatrixView<bf16> out) {
  enqueue([=, this, &weight] { inner_->linear_swiglu(x, weight, gate_up, out); });
}

void RecordingOps::sample(MatrixView<const float> logits,
                          std::span<const TokenChoice> choices,
                          std::span<int32_t> token_ids) {
  submit();
  choices_.assign(choices.begin(), choices.end());
  submitted_.emplace_back([=, this] { inner_->sample(logits, choices_, token_ids); });
}

void RecordingOps::router_topk(MatrixView<const bf16> hidden,
                               const gpu::LinearWeight& gate,
                               std::span<const float> e_score_correction_bias,
                               const gpu::RouterParams& params,
                               MatrixView<bf16> hidden_copy,
                               MatrixView<int32_t> expert_ids,
                               MatrixView<float> expert_weights) {
  enqueue([=, this, &gate] {
    inner_->router_topk(hidden, gate, e_score_correction_bias, params, hidden_copy, expert_ids,
                        expert_weights);
  });
}

void RecordingOps::add_routed_experts(MatrixView<const bf16> hidden,
                                      const gpu::ExpertsWeight& experts,
                                      MatrixView<const int32_t> expert_ids,
                                      MatrixView<const float> expert_weights,
                                      MatrixView<float> residual) {
  enqueue([=, this, &experts] {
    inner_->add_routed_experts(hidden, experts, expert_ids, expert_weights, residual);
  });
}

void RecordingOps::gather_logit_rows(MatrixView<const float> x, MatrixView<float> out) {
  enqueue([=, this] { inner_->gather_logit_rows(x, out); });
}

void RecordingOps::copy_to_host(std::span<const std::byte> device, std::span<std::byte> host) {
  submit();
  submitted_.emplace_back([=, this] { inner_->copy_to_host(device, host); });
}

void RecordingOps::copy_to_device(std::span<const std::byte> host, std::span<std::byte> device) {
  submit();
  submitted_.emplace_back([=, this] { inner_->copy_to_device(host, device); });
}

}  // namespace tandem::tests
