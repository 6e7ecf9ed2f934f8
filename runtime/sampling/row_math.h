// Passes over one row of logits, written so that a compiler vectorises them; the same bits on
// every platform (no libm, fixed order of sums).
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

struct ScoredToken {
  int32_t token_id = -1;
  float score = 0.0f;
};

// e^x for x <= 0, relative error below 3e-7; 0 below -87. NaN gives 0.
float exp_of_nonpositive(float x);

// The largest value that is no NaN; -inf when there is none.
float max_of(std::span<const float> row);

// to[v] = from[v], NaN becomes -inf. Returns the largest.
float copy_without_nan(std::span<const float> from, std::span<float> to);

// weights[v] = exp((row[v] - max) * scale), row without NaN and +inf, scale > 0.
// block_sums gets the sum of every kWeightBlock weights; returns the sum of all.
inline constexpr int64_t kWeightBlock = 1024;
double exp_weights(std::span<const float> row,
                   float max,
                   float scale,
                   std::span<float> weights,
                   std::vector<double>& block_sums);

// The `num_best` largest finite-or-+inf values, best first; of equal ones the lower id is better.
// O(row) and no full sort; `best` keeps its capacity between calls.
void select_best(std::span<const float> row, int64_t num_best, std::vector<ScoredToken>& best);

}  // namespace tandem
