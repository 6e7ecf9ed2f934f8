// Body of router_topk.h: CTAs of one warp, grid (tokens, 1 + those that copy the token's row). Of
// the first, lane l looks at experts l, l + 32, ...; the best of all is found by
// num_experts_per_tok rounds of a maximum over the warp.
#pragma once

#include "gpu/cuda/kernels/router_topk.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

// A candidate of a choice by the largest value, the lower index on ties. Every candidate beats
// kNoCandidate.
struct Candidate {
  float value;
  int32_t idx;
};
inline constexpr int32_t kNoCandidate = 0x7fffffff;

TANDEM_HOST_DEVICE constexpr bool is_better(Candidate a, Candidate b) {
  return a.value > b.value || (a.value == b.value && a.idx < b.idx);
}

template <typename Cta>
TANDEM_DEVICE Candidate best_of_warp(const Cta& cta, Candidate mine) {
  TANDEM_UNROLL
  for (int mask = simt::kWarpSize / 2; mask > 0; mask /= 2) {
    const Candidate other{cta.shuffle_xor(mine.value, mask), cta.shuffle_xor(mine.idx, mask)};
    if (is_better(other, mine)) mine = other;
  }
  return mine;
}

struct RouterTopk {
  using Params = RouterTopkParams;
  static constexpr int kMaxThreads = simt::kWarpSize, kMinBlocks = 1;
  // Below every choice, and what a NaN counts as: a choice is at least the bias, which is finite.
  static constexpr float kWorst = -3.402823466e38f;

  // A row of 7168 is copied in one go: 4 times 16 bytes a lane.
  static constexpr int kCopyBlocks = 7;
  static constexpr int kUnroll = 4;
  static constexpr int kWord = sizeof(simt::Words4) / sizeof(bf16);

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = p.logits.rows,
            .grid_y = p.hidden_copy.rows > 0 ? 1 + kCopyBlocks : 1,
            .shared_size_bytes =
                static_cast<int32_t>(simt::round_up(p.logits.cols * int64_t{sizeof(float)}, 16))};
  }

  static TANDEM_DEVICE float sigmoid(float z) { return 1.0f / (1.0f + expf(-z)); }

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    if (cta.block_y() > 0) {
      copy_hidden(cta, p);
    } else {
      choose(cta, p);
    }
  }

  template <typename Cta>
  static TANDEM_DEVICE void copy_hidden(const Cta& cta, const Params& p) {
    const bf16* from = simt::row_of(p.hidden, cta.block_x());
    bf16* to = simt::row_of(p.hidden_copy, cta.block_x());
    const int64_t stride = int64_t{kCopyBlocks} * simt::kWarpSize * kWord;
    const int64_t first = int64_t{cta.block_y() - 1} * simt::kWarpSize + cta.lane_idx();
    for (int64_t begin = first * kWord; begin < p.hidden.cols; begin += kUnroll * stride) {
      simt::Words4 words[kUnroll] = {};
      TANDEM_UNROLL
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t col = begin + u * stride;
        if (col < p.hidden.cols) words[u] = cta.load16(from + col);
      }
      TANDEM_UNROLL
      for (int u = 0; u < kUnroll; ++u) {
        const int64_t col = begin + u * stride;
        if (col < p.hidden.cols) cta.store16(to + col, words[u]);
      }
    }
  }

  template <typename Cta>
  static TANDEM_DEVICE void choose(Cta& cta, const Params& p) {
    const int64_t token = cta.block_x();
    const auto num_experts = static_cast<int32_t>(p.logits.cols);
    const float* logits = simt::row_of(p.logits, token);
    // What may still be chosen; a lane reads and writes its own experts, but for mask_groups.
    const auto choice = cta.template shared<float>(0, num_experts);
    for (int32_t expert = cta.lane_idx(); expert < num_experts; expert += simt::kWarpSize) {
      const float bias =
          p.e_score_correction_bias == nullptr ? 0.0f : p.e_score_correction_bias[expert];
      const float value = sigmoid(logits[expert]) + bias;
      choice.store(expert, value == value ? value : kWorst);
    }
    if (p.n_group > 1) mask_groups(cta, p, choice);

    const auto num_chosen = static_cast<int32_t>(p.expert_ids.cols);
    int32_t my_id = kNoCandidate;  // of the lane's rank
    for (int32_t rank = 0; rank < num_chosen; ++rank) {
      Candidate mine{-INFINITY, kNoCandidate};
      for (int32_t expert = cta.lane_idx(); expert < num_experts; expert += simt::kWarpSize) {
        const Candidate other{choice.load(expert), expert};
        if (is_better(other, mine)) mine = other;
      }
      const Candidate best = best_of_warp(cta, mine);
      if (best.idx % simt::kWarpSize == cta.lane_idx()) choice.store(best.idx, -INFINITY);
      if (cta.lane_idx() == rank) my_id = best.idx;
    }
    write(cta, p, my_id);
  }

  // Lane g scores group g; a group stays when fewer than topk_group stand before it. Experts of the
  // others fall to kWorst, still better than what was taken: the ids stay different.
  template <typename Cta, typename Shared>
  static TANDEM_DEVICE void mask_groups(Cta& cta, const Params& p, Shared choice) {
    cta.sync_warp();
    const auto group_size = static_cast<int32_t>(p.logits.cols) / p.n_group;
    const int32_t group = cta.lane_idx();
    float score = -INFINITY;
    if (group < p.n_group) {
      float best = kWorst;
      float second = kWorst;
      for (int32_t idx = 0; idx < group_size; ++idx) {
        const float value = choice.load(group * group_size + idx);
        if (value > best) {
          second = best;
          best = value;
        } else if (value > second) {
          second = value;
        }
      }
      score = group_size > 1 ? best + second : best;
    }
    int32_t num_before = 0;
    for (int32_t other = 0; other < p.n_group; ++other) {
      const float other_score = cta.shuffle(score, other);
      num_before += is_better({other_score, other}, {score, group});
    }
    if (group < p.n_group && num_before >= p.topk_group) {
      for (int32_t idx = 0; idx < group_size; ++idx) choice.store(group * group_size + idx, kWorst);
    }
    cta.sync_warp();
  }

  // Lane `rank` holds an id: ids in ascending order, the weights' sum in that order too.
  template <typename Cta>
  static TANDEM_DEVICE void write(Cta& cta, const Params& p, int32_t my_id) {
    const int64_t token = cta.block_x();
    const auto num_chosen = static_cast<int32_t>(p.expert_ids.cols);
    const bool is_chosen = cta.lane_idx() < num_chosen;
    const float my_score = is_chosen ? sigmoid(simt::row_of(p.logits, token)[my_id]) : 0.0f;
    int32_t place = 0;
    for (int32_t lane = 0; lane < num_chosen; ++lane) place += cta.shuffle(my_id, lane) < my_id;
    float sum = 0.0f;
    for (int32_t rank = 0; rank < num_chosen; ++rank) {
      float score = 0.0f;
      for (int32_t lane = 0; lane < num_chosen; ++lane) {
        const float other = cta.shuffle(my_score, lane);
        if (cta.shuffle(place, lane) == rank) score = other;
      }
      sum += score;
    }
    if (!is_chosen) return;
    const float divisor = p.norm_topk_prob ? sum + 1e-20f : 1.0f;
    simt::row_of(p.expert_ids, token)[place] = my_id;
    simt::row_of(p.expert_weights, token)[place] = my_score / divisor * p.routed_scaling_factor;
  }
};

}  // namespace tandem::gpu::cuda
