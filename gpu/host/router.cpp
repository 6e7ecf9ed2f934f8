#include "gpu/host/router.h"

#include <algorithm>
#include <cmath>

#include "runtime/base/check.h"

namespace tandem::gpu::host {
namespace {

constexpr float kOut = -INFINITY;  // no longer, or never, to be chosen

// Index of the largest value, the lowest on ties; with nothing but kOut and NaN, any index.
size_t index_of_largest(std::span<const float> values) {
  size_t best = 0;
  for (size_t idx = 1; idx < values.size(); ++idx) {
    if (values[idx] > values[best] || (std::isnan(values[best]) && !std::isnan(values[idx]))) {
      best = idx;
    }
  }
  return best;
}

// Group score: the sum of the two best; all but the topk_group best groups are masked (13).
void mask_groups(std::span<float> choice, int32_t n_group, int32_t topk_group) {
  const size_t group_size = choice.size() / static_cast<size_t>(n_group);
  const auto group_of = [&](int32_t group_idx) {
    return choice.subspan(static_cast<size_t>(group_idx) * group_size, group_size);
  };
  const auto score_of = [&](int32_t group_idx) {
    float best = kOut;
    float second = kOut;
    for (const float value : group_of(group_idx)) {
      if (value > best) {
        second = best;
        best = value;
      } else if (value > second) {
        second = value;
      }
    }
    return group_size > 1 ? best + second : best;
  };
  // A group is kept when fewer than topk_group groups stand before it.
  constexpr int32_t kMaxGroups = 256;
  TANDEM_CHECK(n_group <= kMaxGroups, "router: too many groups");
  float scores[kMaxGroups];
  for (int32_t group = 0; group < n_group; ++group) scores[group] = score_of(group);
  for (int32_t group = 0; group < n_group; ++group) {
    int32_t num_before = 0;
    for (int32_t other = 0; other < n_group; ++other) {
      num_before +=
          scores[other] > scores[group] || (scores[other] == scores[group] && other < group);
    }
    if (num_before >= topk_group) std::ranges::fill(group_of(group), kOut);
  }
}

}  // namespace

void choose_experts(std::span<float> logits,
                    std::span<const float> e_score_correction_bias,
                    const RouterParams& params,
                    std::span<float> choice,
                    std::span<int32_t> expert_ids,
                    std::span<float> expert_weights) {
  for (size_t expert_idx = 0; expert_idx < logits.size(); ++expert_idx) {
    logits[expert_idx] = 1.0f / (1.0f + std::exp(-logits[expert_idx]));
    choice[expert_idx] =
        logits[expert_idx] +
        (e_score_correction_bias.empty() ? 0.0f : e_score_correction_bias[expert_idx]);
  }
  if (params.n_group > 1) mask_groups(choice, params.n_group, params.topk_group);
  const auto num_chosen = static_cast<size_t>(params.num_experts_per_tok);
  for (size_t rank = 0; rank < num_chosen; ++rank) {
    const size_t best = index_of_largest(choice);
    expert_ids[rank] = static_cast<int32_t>(best);
    choice[best] = kOut;
  }
  std::sort(expert_ids.begin(), expert_ids.begin() + params.num_experts_per_tok);
  float sum = 0.0f;
  for (size_t rank = 0; rank < num_chosen; ++rank) {
    expert_weights[rank] = logits[static_cast<size_t>(expert_ids[rank])];
    sum += expert_weights[rank];
  }
  const float divisor = params.norm_topk_prob ? sum + 1e-20f : 1.0f;
  for (float& weight : expert_weights.first(num_chosen)) {
    weight = weight / divisor * params.routed_scaling_factor;
  }
}

}  // namespace tandem::gpu::host
