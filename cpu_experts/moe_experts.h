// Routed experts of all MoE layers in packed INT4, computed on the worker pool. Public face of the
// folder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "cpu_experts/dispatch.h"
#include "runtime/base/bf16.h"
#include "runtime/base/matrix_view.h"
#include "runtime/base/progress.h"
#include "runtime/model/expert_tensors.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::cpu_experts {

struct MoeShape {
  int32_t hidden_size = 0;            // multiple of 32
  int32_t moe_intermediate_size = 0;  // multiple of 32
  int32_t n_routed_experts = 0;
  int32_t num_experts_per_tok = 0;
  int32_t num_moe_layers = 0;
  int32_t max_tokens = 0;  // limit of one forward(); work buffers are taken at construction
  ActivationMode activations = ActivationMode::kBf16;
};

// One MoE layer's work.
struct RoutedTokens {
  MatrixView<const bf16> hidden;           // [num_tokens, hidden_size]
  MatrixView<const int32_t> expert_ids;    // [num_tokens, num_experts_per_tok]
  MatrixView<const float> expert_weights;  // [num_tokens, num_experts_per_tok]
};

class MoeExperts {
 public:
  // What the constructor takes: the packed experts (4.5 bits a weight; more where a node's slice of
  // moe_intermediate_size is no multiple of 64), and what a step of max_tokens works in.
  struct PlannedSize {
    int64_t weights_bytes = 0;
    int64_t work_bytes = 0;
  };
  static PlannedSize planned_size(const MoeShape& shape, const WorkerPool& pool);

  // Takes the memory of every expert. Throws std::bad_alloc-derived LoadError with GiB wanted and
  // had.
  MoeExperts(const MoeShape& shape, WorkerPool& pool);
  ~MoeExperts();
  MoeExperts(const MoeExperts&) = delete;
  MoeExperts& operator=(const MoeExperts&) = delete;

  // Packs all experts of one layer, in parallel. `source(expert_idx, worker_idx)` returns the
  // checkpoint's tensors; it is called on worker threads, for different experts at once, and its
  // views stay valid until the next call with the same worker_idx.
  using ExpertSource = std::function<ExpertTensors(int32_t expert_idx, int32_t worker_idx)>;
  void load_layer(int32_t moe_layer_idx, const ExpertSource& source);

  // out[t, :] = sum_j weight[t, j] * MLP_{id[t, j]}(hidden[t, :])      equation 15, without the
  // shared expert
  //   out [num_tokens, hidden_size] fp32, overwritten. The bits of a row depend on that row and the
  //   number of nodes alone: not on the other tokens, unless their number brings AMX in, nor on the
  //   number of threads.
  void forward(int32_t moe_layer_idx, const RoutedTokens& tokens, MatrixView<float> out);

  [[nodiscard]] int64_t resident_size_bytes() const;
  // The packed weights that one of the pool's nodes holds and its team alone reads.
  [[nodiscard]] std::span<const std::byte> node_weights(int node_idx) const;
  [[nodiscard]] std::string isa_name() const;  // of the kernels: "avx2", "avx512_vnni", ...
  // Checkpoint bytes that `num_tokens` tokens with all-different experts read in one layer.
  static int64_t layer_read_bytes(const MoeShape& shape, int64_t num_distinct_experts);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::cpu_experts
