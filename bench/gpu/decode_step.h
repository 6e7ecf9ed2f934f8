// The dense part of a decode step in parts, as offload runs them.
#pragma once

#include <cstdint>

#include "bench/gpu/device_bench.h"
#include "offload/attention_layer.h"
#include "offload/weights.h"
#include "offload/workspace.h"

namespace tandem::bench {

// One layer: attention, and a dense MLP or router and shared experts. What the CPU's experts would
// have summed is added from the host's memory, as their input is written there.
class DecodeLayer {
 public:
  enum class Kind { kMoe, kDense };
  DecodeLayer(DeviceBench& bench, Kind kind, int32_t num_rows, int32_t context_tokens);
  void run(gpu::Ops& ops);
  [[nodiscard]] double read_bytes() const { return read_bytes_; }  // weights and KV

 private:
  Kind kind_;
  ModelConfig config_;
  int32_t num_rows_;
  double read_bytes_ = 0.0;
  offload::LayerWeights weights_;
  offload::DeviceVector<float> frequencies_;
  offload::AttentionContext attention_;
  gpu::KvCacheLayer cache_;
  offload::Workspace workspace_;
};

// The last norm and lm_head.
class DecodeHead {
 public:
  DecodeHead(DeviceBench& bench, int32_t num_rows);
  void run(gpu::Ops& ops);
  [[nodiscard]] double read_bytes() const { return read_bytes_; }

 private:
  float eps_;
  double read_bytes_;
  offload::HeadWeights weights_;
  MatrixView<float> residual_;  // [num_rows, hidden_size]
  MatrixView<float> gathered_;
  MatrixView<bf16> normed_;
  MatrixView<float> logits_;  // [num_rows, vocab_size]
};

}  // namespace tandem::bench
