// Routed experts on the host as a device (equations 11 and 15), from the packed INT4 of
// runtime/model/expert_layout.h: a stand-in for a card's kernels, which rounds where they do. Fast
// experts of the CPU are cpu_experts.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu/host/host_memory.h"
#include "gpu/ops.h"
#include "runtime/topology/worker_pool.h"

namespace tandem::gpu::host {

class HostExperts : public ExpertsWeight {
 public:
  HostExperts(const ExpertsShape& shape, Ops::PackedExpert packed_expert);

  [[nodiscard]] const ExpertsShape& shape() const { return shape_; }
  [[nodiscard]] const std::byte* expert(int64_t expert_idx) const {
    return memory_.as<const std::byte>() + expert_idx * expert_size_bytes_;
  }

 private:
  ExpertsShape shape_;
  int64_t expert_size_bytes_;
  HostMemory memory_;
};

class ExpertProducts {
 public:
  explicit ExpertProducts(WorkerPool& pool) : pool_(pool) {}

  void reserve(const OpsLimits& limits);
  void release();
  // Memory that reserve() takes.
  [[nodiscard]] static int64_t planned_size_bytes(const OpsLimits& limits);

  struct Args {
    MatrixView<const bf16> hidden;
    const HostExperts& experts;
    MatrixView<const int32_t> expert_ids;
    MatrixView<const float> expert_weights;
    MatrixView<float> residual;
  };
  void run(const Args& args);

 private:
  // Pairs [begin, end) of the sorted ones: the tokens of one expert.
  struct Job {
    int32_t expert_idx = 0;
    int32_t begin = 0, end = 0;
  };
  // 16 columns of what an expert makes for all of its tokens.
  struct Unit {
    const Job& job;
    int64_t col;
  };
  // Of matrices of `width` columns an expert, one expert's after another's.
  [[nodiscard]] Unit unit_at(int64_t unit_idx, int64_t width) const;
  void sort_pairs(const Args& args);
  void activate(const Args& args, const Unit& unit);
  void finish(const Args& args, const Unit& unit);
  void combine(const Args& args, int64_t token) const;

  WorkerPool& pool_;
  HostMemory activated_;   // bf16 [max_pairs, moe_intermediate_size], in sorted order
  HostMemory expert_out_;  // bf16 [max_pairs, hidden_size], by pair: token * experts a token + rank
  std::vector<int32_t> expert_begin_;  // [n_routed_experts + 1]
  std::vector<int32_t> sorted_pairs_;
  std::vector<Job> jobs_;
};

}  // namespace tandem::gpu::host
