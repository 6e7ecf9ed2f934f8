#include "gpu/host/experts.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "gpu/host/panels.h"
#include "runtime/base/check.h"
#include "runtime/model/expert_layout.h"

namespace tandem::gpu::host {
namespace {

namespace layout = expert_layout;

// Tokens that share the reading of a block.
constexpr int kTileTokens = 8;
constexpr int64_t kRows = layout::kBlockRows;
using RowSums = std::array<float, kRows>;

int64_t max_pairs(const OpsLimits& limits) {
  return int64_t{limits.max_batch_tokens} * limits.experts.num_experts_per_tok;
}

// The codes of a block as numbers [64][16], a column's rows side by side, and its scales [2][16].
struct Block {
  float codes[layout::kBlockCols][kRows];
  float scales[2][kRows];

  void read(const std::byte* packed) {
    for (int64_t idx = 0; idx < 2 * kRows; ++idx) {
      bf16 scale;
      std::memcpy(&scale, packed + idx * int64_t{sizeof(bf16)}, sizeof(scale));
      scales[idx / kRows][idx % kRows] = scale.to_float();
    }
    const std::byte* words = packed + layout::kScalesSizeBytes;
    for (int64_t vector = 0; vector < layout::kBlockCols / layout::kVectorCols; ++vector) {
      for (int64_t row = 0; row < kRows; ++row) {
        uint32_t word = 0;
        std::memcpy(&word, words + vector * layout::kVectorSizeBytes + 4 * row, sizeof(word));
        for (int64_t byte = 0; byte < 4; ++byte) {
          const auto pair = static_cast<int>(word >> (8 * byte));
          const int64_t col = vector * layout::kVectorCols + byte;
          codes[col][row] = static_cast<float>((pair & 15) - 8);
          codes[col + 4][row] = static_cast<float>((pair >> 4 & 15) - 8);
        }
      }
    }
  }
};

// sums[t][row] = the 16 rows of a row block times token t's input of in_features values. Groups of
// 32 columns one after the other, each multiplied by its scale.
void multiply_row_block(const std::byte* row_block,
                        int64_t in_features,
                        const std::array<const bf16*, kTileTokens>& x,
                        int num_tokens,
                        std::array<RowSums, kTileTokens>& sums) {
  for (RowSums& token_sums : sums) token_sums.fill(0.0f);
  Block block;
  for (int64_t group = 0; group < in_features / layout::kGroupCols; ++group) {
    const int64_t half = group % 2;
    if (half == 0) block.read(row_block + group / 2 * layout::kBlockSizeBytes);
    for (int token = 0; token < num_tokens; ++token) {
      const bf16* input = x[static_cast<size_t>(token)] + group * layout::kGroupCols;
      RowSums group_sums{};
      for (int64_t col = 0; col < layout::kGroupCols; ++col) {
        const float value = input[col].to_float();
        const float* codes = block.codes[half * layout::kGroupCols + col];
        for (size_t row = 0; row < kRows; ++row) group_sums[row] += codes[row] * value;
      }
      RowSums& total = sums[static_cast<size_t>(token)];
      for (size_t row = 0; row < kRows; ++row)
        total[row] += group_sums[row] * block.scales[half][row];
    }
  }
}

}  // namespace

HostExperts::HostExperts(const ExpertsShape& shape, Ops::PackedExpert packed_expert)
    : shape_(shape),
      expert_size_bytes_(layout::expert_size_bytes(shape.hidden_size, shape.moe_intermediate_size)),
      memory_(static_cast<size_t>(shape.n_routed_experts * expert_size_bytes_)) {
  for (int32_t idx = 0; idx < shape.n_routed_experts; ++idx) {
    const std::span<const std::byte> packed = packed_expert(idx);
    TANDEM_CHECK(static_cast<int64_t>(packed.size()) == expert_size_bytes_,
                 "load_experts: size of an expert");
    std::memcpy(memory_.as<std::byte>() + idx * expert_size_bytes_, packed.data(), packed.size());
  }
}

int64_t ExpertProducts::planned_size_bytes(const OpsLimits& limits) {
  const int64_t pair_size_bytes =
      (limits.experts.hidden_size + limits.experts.moe_intermediate_size) * int64_t{sizeof(bf16)};
  return max_pairs(limits) * pair_size_bytes;
}

void ExpertProducts::reserve(const OpsLimits& limits) {
  const int64_t pairs = max_pairs(limits);
  if (pairs == 0) return;
  const auto matrix = [&](int64_t width) {
    return HostMemory(static_cast<size_t>(pairs * width) * sizeof(bf16));
  };
  activated_ = matrix(limits.experts.moe_intermediate_size);
  expert_out_ = matrix(limits.experts.hidden_size);
  sorted_pairs_.resize(static_cast<size_t>(pairs));
  expert_begin_.resize(static_cast<size_t>(limits.experts.n_routed_experts) + 1);
  jobs_.reserve(static_cast<size_t>(limits.experts.n_routed_experts));
}

void ExpertProducts::release() {
  activated_ = HostMemory();
  expert_out_ = HostMemory();
}

// Counting sort by expert, so that an expert is read once for every few of its tokens.
void ExpertProducts::sort_pairs(const Args& args) {
  const int64_t num_pairs = args.expert_ids.rows * args.expert_ids.cols;
  const auto expert_of = [&](int64_t pair) {
    return static_cast<size_t>(
        args.expert_ids(pair / args.expert_ids.cols, pair % args.expert_ids.cols));
  };
  const auto num_experts = static_cast<size_t>(args.experts.shape().n_routed_experts);
  TANDEM_CHECK(
      static_cast<int64_t>(sorted_pairs_.size()) >= num_pairs && expert_begin_.size() > num_experts,
      "add_routed_experts: more than reserve() was told");
  std::fill(expert_begin_.begin(), expert_begin_.end(), 0);
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    TANDEM_CHECK(expert_of(pair) < num_experts, "add_routed_experts: no such expert");
    ++expert_begin_[expert_of(pair) + 1];
  }
  jobs_.clear();
  for (size_t expert = 0; expert < num_experts; ++expert) {
    const int32_t begin = expert_begin_[expert];
    const int32_t end = begin + expert_begin_[expert + 1];
    expert_begin_[expert + 1] = end;
    if (end > begin) {
      jobs_.push_back({.expert_idx = static_cast<int32_t>(expert), .begin = begin, .end = end});
    }
  }
  for (int64_t pair = 0; pair < num_pairs; ++pair) {
    sorted_pairs_[static_cast<size_t>(expert_begin_[expert_of(pair)]++)] =
        static_cast<int32_t>(pair);
  }
}

ExpertProducts::Unit ExpertProducts::unit_at(int64_t unit_idx, int64_t width) const {
  const int64_t units_a_job = width / kRows;
  return {.job = jobs_[static_cast<size_t>(unit_idx / units_a_job)],
          .col = unit_idx % units_a_job * kRows};
}

// Columns of the activation.
void ExpertProducts::activate(const Args& args, const Unit& unit) {
  const ExpertsShape& shape = args.experts.shape();
  const auto& [job, col] = unit;
  const std::byte* gate =
      args.experts.expert(job.expert_idx) + 2 * layout::packed_size_bytes(col, shape.hidden_size);
  const std::byte* up = gate + layout::packed_size_bytes(kRows, shape.hidden_size);
  std::array<const bf16*, kTileTokens> x{};
  std::array<RowSums, kTileTokens> gate_sums;
  std::array<RowSums, kTileTokens> up_sums;
  for (int32_t begin = job.begin; begin < job.end; begin += kTileTokens) {
    const int num_tokens = std::min(kTileTokens, job.end - begin);
    for (int token = 0; token < num_tokens; ++token) {
      const int32_t pair = sorted_pairs_[static_cast<size_t>(begin + token)];
      x[static_cast<size_t>(token)] = &args.hidden(pair / args.expert_ids.cols, 0);
    }
    multiply_row_block(gate, shape.hidden_size, x, num_tokens, gate_sums);
    multiply_row_block(up, shape.hidden_size, x, num_tokens, up_sums);
    for (int token = 0; token < num_tokens; ++token) {
      bf16* out =
          activated_.as<bf16>() + (begin + token) * int64_t{shape.moe_intermediate_size} + col;
      for (size_t row = 0; row < kRows; ++row) {
        const float z = gate_sums[static_cast<size_t>(token)][row];
        out[row] = bf16(z / (1.0f + std::exp(-z)) * up_sums[static_cast<size_t>(token)][row]);
      }
    }
  }
}

// Columns of the expert's output.
void ExpertProducts::finish(const Args& args, const Unit& unit) {
  const ExpertsShape& shape = args.experts.shape();
  const auto& [job, col] = unit;
  const std::byte* down =
      args.experts.expert(job.expert_idx) +
      layout::gate_up_size_bytes(shape.hidden_size, shape.moe_intermediate_size) +
      layout::packed_size_bytes(col, shape.moe_intermediate_size);
  std::array<const bf16*, kTileTokens> x{};
  std::array<RowSums, kTileTokens> sums;
  for (int32_t begin = job.begin; begin < job.end; begin += kTileTokens) {
    const int num_tokens = std::min(kTileTokens, job.end - begin);
    for (int token = 0; token < num_tokens; ++token) {
      x[static_cast<size_t>(token)] =
          activated_.as<const bf16>() + (begin + token) * int64_t{shape.moe_intermediate_size};
    }
    multiply_row_block(down, shape.moe_intermediate_size, x, num_tokens, sums);
    for (int token = 0; token < num_tokens; ++token) {
      const int64_t pair = sorted_pairs_[static_cast<size_t>(begin + token)];
      bf16* out = expert_out_.as<bf16>() + pair * shape.hidden_size + col;
      for (size_t row = 0; row < kRows; ++row) {
        out[row] = bf16(sums[static_cast<size_t>(token)][row]);
      }
    }
  }
}

void ExpertProducts::combine(const Args& args, int64_t token) const {
  const int64_t num_ranks = args.expert_ids.cols;
  const bf16* expert_out = expert_out_.as<const bf16>() + token * num_ranks * args.residual.cols;
  for (int64_t col = 0; col < args.residual.cols; ++col) {
    float sum = 0.0f;
    for (int64_t rank = 0; rank < num_ranks; ++rank) {
      sum +=
          args.expert_weights(token, rank) * expert_out[rank * args.residual.cols + col].to_float();
    }
    args.residual(token, col) += sum;
  }
}

void ExpertProducts::run(const Args& args) {
  const ExpertsShape& shape = args.experts.shape();
  sort_pairs(args);
  const auto num_jobs = static_cast<int64_t>(jobs_.size());
  const auto share = [&](int64_t num_units, const WorkerPool::Worker& worker, const auto& task) {
    const Range part = part_of(num_units, worker.worker_idx, pool_.num_workers());
    for (int64_t unit = part.begin; unit < part.end; ++unit) task(unit);
  };
  pool_.run([&](const WorkerPool::Worker& worker) {
    share(num_jobs * (shape.moe_intermediate_size / kRows), worker,
          [&](int64_t idx) { activate(args, unit_at(idx, shape.moe_intermediate_size)); });
    pool_.barrier();
    share(num_jobs * (shape.hidden_size / kRows), worker,
          [&](int64_t idx) { finish(args, unit_at(idx, shape.hidden_size)); });
    pool_.barrier();
    share(args.residual.rows, worker, [&](int64_t token) { combine(args, token); });
  });
}

}  // namespace tandem::gpu::host
