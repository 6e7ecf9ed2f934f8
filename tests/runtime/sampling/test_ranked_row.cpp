#include "runtime/sampling/ranked_row.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <optional>
#include <random>

#include "runtime/sampling/philox.h"
#include "runtime/sampling/sampler.h"
#include "tests/runtime/sampling/sorted_row.h"

namespace tandem {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

// Ranks `logits` and asks for heads of many lengths.
void check_heads(std::span<const float> logits, float scale, RankedRow& ranked, std::mt19937& rng) {
  const tests::SortedRow sorted(logits, scale);
  const size_t num_tokens = sorted.tokens.size();
  const auto is_head = [&](const RankedRow::Head& head, size_t num) {
    REQUIRE(head.num_tokens == static_cast<int64_t>(num));
    REQUIRE(std::abs(head.weight - sorted.heads[num - 1]) <= 1e-12 * sorted.heads[num - 1]);
    REQUIRE(head.last_logit == sorted.tokens[num - 1].score);
    REQUIRE(ranked.last_token_of(head) == sorted.tokens[num - 1].token_id);
  };
  std::vector<float> weights(logits.size());
  std::vector<double> block_sums;
  const float max = max_of(logits);
  const double sum = exp_weights(logits, max, scale, weights, block_sums);
  ranked.assign(logits, weights, sum, max, scale);
  for (int case_idx = 0; case_idx < 12; ++case_idx) {
    const size_t num = case_idx == 0 ? 1 : case_idx == 1 ? num_tokens : 1 + rng() % num_tokens;
    is_head(ranked.head_of(static_cast<int64_t>(num)), num);
    const double weight = case_idx % 2 == 0 ? sorted.heads[num - 1]
                                            : sum * static_cast<double>(rng() % 1000) / 1000.0;
    if (sorted.is_close(weight)) continue;
    is_head(ranked.head_reaching(weight), sorted.num_reaching(weight));
    is_head(ranked.head_exceeding(weight), sorted.num_exceeding(weight));
  }
  for (const float least : {0.0f, 0.05f, 0.7f, 0.99999f, 1.0f}) {
    const auto end = std::find_if(sorted.weights.begin(), sorted.weights.end(),
                                  [&](double weight) { return weight < double{least}; });
    is_head(ranked.head_of_weights(least), static_cast<size_t>(end - sorted.weights.begin()));
  }
}

TEST_CASE("a row's heads end where the sorted row's do", "[sampling]") {
  std::mt19937 rng(31);
  RankedRow ranked;
  for (const size_t vocab_size : {1u, 2u, 3u, 255u, 1023u, 1024u, 1025u, 2049u, 9973u}) {
    for (const tests::RowOfShape& row : tests::rows_of_all_shapes(vocab_size, rng)) {
      for (const float scale : {1.0f, 0.02f, 1e-30f, 3.0f, 5e4f}) {
        INFO(row.name << ", " << vocab_size << " tokens, scale " << scale);
        check_heads(row.logits, scale, ranked, rng);
      }
    }
  }
}

TEST_CASE("nothing that is asked of a row without any weight is out of bounds", "[sampling]") {
  // Only sums that overflow come so.
  const std::vector<float> logits = {kInf, 1.0f, -kInf, kInf};
  const std::vector<float> weights(4, 0.0f);
  RankedRow ranked;
  ranked.assign(logits, weights, 0.0, kInf, 1.0f);
  CHECK(ranked.last_token_of(ranked.head_of(1)) == 0);
  CHECK(ranked.last_token_of(ranked.head_of(2)) == 3);
  CHECK(ranked.head_reaching(0.0).num_tokens == 1);
  CHECK(ranked.head_exceeding(0.0).num_tokens == 3);
  CHECK(ranked.head_of_weights(0.5f).num_tokens == 1);
}

struct Chosen {
  int64_t num_kept = 0;
  int32_t token_id = -1;  // absent where rounding decides
};

// As the definition reads; absent where rounding decides what is kept.
std::optional<Chosen> choose_sorted(const tests::SortedRow& sorted,
                                    const SamplingParams& params,
                                    double uniform) {
  const size_t num_tokens = sorted.tokens.size();
  const size_t num_top = params.top_k > 0 ? std::min<size_t>(params.top_k, num_tokens) : num_tokens;
  size_t num_kept = num_top;
  if (params.top_p < 1.0f) {
    const double allowed = static_cast<double>(params.top_p) * sorted.heads[num_top - 1];
    if (sorted.is_close(allowed)) return std::nullopt;
    num_kept = std::min(num_kept, sorted.num_reaching(allowed));
  }
  const auto unlikely = std::find_if(sorted.weights.begin(), sorted.weights.end(),
                                     [&](double w) { return w < double{params.min_p}; });
  num_kept = std::min<size_t>(num_kept, unlikely - sorted.weights.begin());
  const double left = uniform * sorted.heads[num_kept - 1];
  const size_t drawn = sorted.num_exceeding(left);
  const bool is_clear = !sorted.is_close(left) && drawn <= num_kept;
  return Chosen{static_cast<int64_t>(num_kept), is_clear ? sorted.tokens[drawn - 1].token_id : -1};
}

std::vector<SamplingParams> all_filters() {
  std::vector<SamplingParams> all;
  for (const int32_t top_k : {0, 1, 64, 256, 2048, 2049, 5000}) {
    for (const float top_p : {1.0f, 1e-6f, 0.3f, 0.95f, 0.999f}) {
      for (const float min_p : {0.0f, 0.05f, 0.8f}) {
        if (top_k == 0 && top_p == 1.0f && min_p == 0.0f) continue;
        all.emplace_back();
        all.back().top_k = top_k;
        all.back().top_p = top_p;
        all.back().min_p = min_p;
      }
    }
  }
  return all;
}

struct Compared {
  int num_rows = 0;
  int num_tokens = 0;
};

void check_choices(const std::vector<float>& logits,
                   std::span<const SamplingParams> all,
                   SamplerScratch& scratch,
                   Compared& compared) {
  const tests::SortedRow sorted(logits, 1.0f / all.front().temperature);
  for (const SamplingParams& params : all) {
    INFO("top_k " << params.top_k << ", top_p " << params.top_p << ", min_p " << params.min_p);
    const uint64_t seed = static_cast<uint64_t>(compared.num_rows++);
    Sampler sampler(params, seed, {});
    const auto token = sampler.choose({.logits = logits}, scratch);
    REQUIRE(token.ok());
    const std::optional<Chosen> expected = choose_sorted(sorted, params, uniform_at(seed, 0));
    if (!expected) continue;
    const auto num_tokens = static_cast<int64_t>(sorted.tokens.size());
    REQUIRE(std::min(scratch.num_kept, num_tokens) == expected->num_kept);
    if (expected->token_id < 0) continue;
    REQUIRE(token->token_id == expected->token_id);
    ++compared.num_tokens;
  }
}

TEST_CASE("filters keep, and seeds draw, what they would of a sorted row of any shape",
          "[sampling]") {
  std::mt19937 rng(32);
  SamplerScratch scratch;
  Compared compared;
  std::vector<SamplingParams> all = all_filters();
  for (const size_t vocab_size : {1u, 255u, 257u, 1025u, 2500u, 6007u}) {
    for (tests::RowOfShape& row : tests::rows_of_all_shapes(vocab_size, rng)) {
      for (const float temperature : {1.0f, 0.3f, 30.0f}) {
        INFO(row.name << ", " << vocab_size << " tokens, temperature " << temperature);
        for (SamplingParams& params : all) params.temperature = temperature;
        check_choices(row.logits, all, scratch, compared);
        // What is impossible may be NaN.
        std::replace(row.logits.begin(), row.logits.end(), -kInf, kNaN);
      }
    }
  }
  CHECK(compared.num_tokens > compared.num_rows * 99 / 100);
}

TEST_CASE("a whole vocabulary that is flat is filtered to the token", "[sampling]") {
  std::mt19937 rng(33);
  SamplerScratch scratch;
  Compared compared;
  std::vector<SamplingParams> all(4);
  all[0].top_p = 0.95f;
  all[1].top_p = 0.999f;
  all[1].min_p = 0.5f;
  all[2].min_p = 0.05f;
  all[3].top_k = 100'000;
  all[3].top_p = 0.9f;
  for (const tests::RowOfShape& row : tests::rows_of_all_shapes(163'840, rng)) {
    INFO(row.name);
    check_choices(row.logits, all, scratch, compared);
  }
  CHECK(compared.num_tokens > compared.num_rows * 9 / 10);
}

}  // namespace
}  // namespace tandem
