// A row's tokens written down in order, with the sampler's own weights and their sums from the best
// token on; and rows to try it with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "runtime/sampling/row_math.h"

namespace tandem::tests {

struct SortedRow {
  std::vector<ScoredToken> tokens;  // best first; the score is the logit
  std::vector<double> weights;
  std::vector<double> heads;  // weight of the tokens up to this one

  SortedRow(std::span<const float> logits, float scale) {
    for (size_t token_idx = 0; token_idx < logits.size(); ++token_idx) {
      if (logits[token_idx] > -std::numeric_limits<float>::infinity())
        tokens.push_back({static_cast<int32_t>(token_idx), logits[token_idx]});
    }
    std::stable_sort(
        tokens.begin(), tokens.end(),
        [](const ScoredToken& left, const ScoredToken& right) { return left.score > right.score; });
    double sum = 0.0;
    for (const ScoredToken& token : tokens) {
      const float weight = exp_of_nonpositive((token.score - tokens.front().score) * scale);
      weights.push_back(static_cast<double>(weight));
      heads.push_back(sum += weights.back());
    }
  }

  // Sums of up to 2^18 weights of 24 bits and at least 2^-11 fit a double: they are the same in any
  // order, and decisions leave no room for rounding.
  [[nodiscard]] bool has_exact_sums() const {
    return std::all_of(weights.begin(), weights.end(), [](double w) { return w >= 0x1p-11; });
  }

  // Whether a sum in another order may fall on the other side of `weight`.
  [[nodiscard]] bool is_close(double weight) const {
    const double slack = 1e-11 * weight;
    const auto next = std::lower_bound(heads.begin(), heads.end(), weight - slack);
    return next != heads.end() && *next <= weight + slack && !has_exact_sums();
  }

  // Tokens of the shortest head with at least this weight, or with more; all where none has.
  [[nodiscard]] size_t num_reaching(double weight) const {
    const auto end = std::lower_bound(heads.begin(), heads.end(), weight);
    return std::min<size_t>(end - heads.begin() + 1, heads.size());
  }
  [[nodiscard]] size_t num_exceeding(double weight) const {
    const auto end = std::upper_bound(heads.begin(), heads.end(), weight);
    return std::min<size_t>(end - heads.begin() + 1, heads.size());
  }
};

struct RowOfShape {
  std::string name;
  std::vector<float> logits;
};

// Shapes that a sampler meets or dreads, ids in no order: as a model's, flat, of few levels, with
// values an ulp apart, over the whole range of floats, each also with tokens that are impossible.
inline std::vector<RowOfShape> rows_of_all_shapes(size_t vocab_size, std::mt19937& rng) {
  std::uniform_real_distribution<float> uniform(0.0f, 1.0f);
  std::normal_distribution<float> normal(0.0f, 3.0f);
  std::vector<RowOfShape> rows;
  const auto add = [&](const std::string& name, const auto& logit_of) {
    std::vector<float> logits(vocab_size);
    for (size_t rank = 0; rank < vocab_size; ++rank) logits[rank] = logit_of(rank);
    std::shuffle(logits.begin(), logits.end(), rng);
    rows.push_back({name, logits});
    for (float& logit : logits) {
      if (rng() % 4 == 0) logit = -std::numeric_limits<float>::infinity();
    }
    logits[rng() % vocab_size] = 0.5f;  // one is possible
    rows.push_back({name + ", some impossible", std::move(logits)});
  };
  add("normal", [&](size_t) { return normal(rng); });
  add("power law",
      [](size_t rank) { return 20.0f - 1.2f * std::log(static_cast<float>(1 + rank)); });
  add("flat", [&](size_t) { return 10.0f + uniform(rng); });
  add("flat around 0", [&](size_t) { return uniform(rng) - 0.5f; });
  add("nearly equal", [&](size_t) { return 7.0f + 1e-4f * uniform(rng); });
  add("nearly equal, some far", [&](size_t rank) {
    return rank % 9 == 8 ? -30.0f * uniform(rng) : 7.0f + 1e-4f * uniform(rng);
  });
  add("two clusters", [&](size_t rank) { return (rank % 2 == 0 ? 5.0f : -15.0f) + uniform(rng); });
  add("equal", [](size_t) { return -3.0f; });
  add("equal zeros", [](size_t rank) { return rank % 2 == 0 ? 0.0f : -0.0f; });
  add("two levels", [](size_t rank) { return rank % 3 == 0 ? 1.5f : 1.0f; });
  add("ulps", [&](size_t) { return 1.0f + 0x1p-23f * static_cast<float>(rng() % 5); });
  add("levels", [&](size_t) { return static_cast<float>(rng() % 12); });
  add("all sizes",
      [&](size_t) { return std::ldexp(normal(rng), static_cast<int>(rng() % 200) - 100); });
  return rows;
}

}  // namespace tandem::tests
