// Sampling as the definition reads: full sort, doubles, libm.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <map>
#include <set>
#include <span>
#include <vector>

#include "runtime/sampling/sampling_params.h"

namespace tandem::tests {

struct NaiveRow {
  std::vector<int32_t> kept;  // best first
  std::vector<double> probabilities;
  // Smallest relative distance of a filter's decision from its boundary: below some 1e-5 float
  // rounding may decide otherwise.
  double margin = std::numeric_limits<double>::infinity();
};

// Penalties and biases in float, as they are defined on float logits.
inline std::vector<float> naive_modified(std::vector<float> logits,
                                         const SamplingParams& params,
                                         std::span<const int32_t> prompt,
                                         std::span<const int32_t> output) {
  std::set<int32_t> seen(prompt.begin(), prompt.end());
  seen.insert(output.begin(), output.end());
  for (const int32_t token_id : seen) {
    float& logit = logits[token_id];
    logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
  }
  std::map<int32_t, int32_t> counts;
  for (const int32_t token_id : output) ++counts[token_id];
  for (const auto& [token_id, count] : counts) {
    logits[token_id] -= params.frequency_penalty * static_cast<float>(count);
    logits[token_id] -= params.presence_penalty;
  }
  for (const auto& [token_id, bias] : params.logit_bias) logits[token_id] += bias;
  return logits;
}

inline NaiveRow naive_filter(std::span<const float> logits, const SamplingParams& params) {
  NaiveRow row;
  for (size_t token_idx = 0; token_idx < logits.size(); ++token_idx) {
    if (logits[token_idx] > -std::numeric_limits<float>::infinity())
      row.kept.push_back(static_cast<int32_t>(token_idx));
  }
  std::stable_sort(row.kept.begin(), row.kept.end(),
                   [&](int32_t left, int32_t right) { return logits[left] > logits[right]; });
  if (params.top_k > 0) row.kept.resize(std::min<size_t>(row.kept.size(), params.top_k));
  double sum = 0.0;
  for (const int32_t token_id : row.kept) {
    const double difference = static_cast<double>(logits[token_id]) - logits[row.kept.front()];
    row.probabilities.push_back(std::exp(difference / params.temperature));
    sum += row.probabilities.back();
  }
  size_t num_kept = 0;
  double head = 0.0;
  const double best = row.probabilities.front();
  while (num_kept < row.kept.size()) {
    const double weight = row.probabilities[num_kept];
    if (params.top_p < 1.0f) {
      row.margin = std::min(row.margin, std::abs(head / sum / params.top_p - 1.0));
      if (num_kept > 0 && head >= params.top_p * sum) break;
    }
    if (params.min_p > 0.0f && num_kept > 0) {
      row.margin = std::min(row.margin, std::abs(weight / best / params.min_p - 1.0));
      if (weight < params.min_p * best) break;
    }
    head += weight;
    ++num_kept;
  }
  row.kept.resize(num_kept);
  row.probabilities.resize(num_kept);
  for (double& probability : row.probabilities) probability /= head;
  return row;
}

}  // namespace tandem::tests
