#include "runtime/sampling/sampler.h"

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <limits>
#include <random>

#include "runtime/sampling/philox.h"
#include "tests/runtime/sampling/chi_square.h"
#include "tests/runtime/sampling/naive_sampler.h"

namespace tandem {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_logits(std::mt19937& rng, size_t vocab_size, float spread) {
  std::normal_distribution<float> normal(0.0f, spread);
  std::vector<float> logits(vocab_size);
  for (float& logit : logits) logit = normal(rng);
  return logits;
}

int32_t choose_one(const SamplingParams& params, std::span<const float> logits) {
  SamplerScratch scratch;
  Sampler sampler(params, 1, {});
  const auto token = sampler.choose({.logits = logits}, scratch);
  REQUIRE(token.ok());
  return token->token_id;
}

TEST_CASE("greedy takes the largest logit, the lowest id among equals", "[sampling]") {
  SamplingParams greedy;
  greedy.temperature = 0.0f;
  for (size_t best_idx = 0; best_idx < 40; ++best_idx) {
    std::vector<float> logits(41, 1.0f);
    logits[best_idx] = logits[40] = 2.0f;
    CHECK(choose_one(greedy, logits) == static_cast<int32_t>(best_idx));
    logits[best_idx == 0 ? 1 : 0] = kNaN;
    CHECK(choose_one(greedy, logits) == static_cast<int32_t>(best_idx));
    // The way with changes must agree with the short one.
    greedy.logit_bias = {{39, -1.0f}};
    CHECK(choose_one(greedy, logits) == (best_idx == 39 ? 40 : static_cast<int32_t>(best_idx)));
    greedy.logit_bias.clear();
  }
}

TEST_CASE("the whole vocabulary is drawn by its probabilities", "[sampling]") {
  std::mt19937 rng(3);
  constexpr int64_t kNumDraws = 200'000;
  for (const float temperature : {0.5f, 1.0f, 1.7f}) {
    const std::vector<float> logits = random_logits(rng, 300, 2.0f);
    SamplingParams params;
    params.temperature = temperature;
    const tests::NaiveRow naive = tests::naive_filter(logits, params);
    std::vector<double> probabilities(logits.size(), 0.0);
    for (size_t idx = 0; idx < naive.kept.size(); ++idx)
      probabilities[naive.kept[idx]] = naive.probabilities[idx];
    std::vector<int64_t> counts(logits.size(), 0);
    SamplerScratch scratch;
    Sampler sampler(params, 99, {});
    for (int64_t draw_idx = 0; draw_idx < kNumDraws; ++draw_idx)
      ++counts[sampler.choose({.logits = logits}, scratch)->token_id];
    const tests::ChiSquare result = tests::chi_square(counts, probabilities, kNumDraws);
    INFO("temperature " << temperature << ": " << result.statistic << " of " << result.threshold);
    CHECK(result.fits());
  }
}

TEST_CASE("filtered tokens are drawn by their probabilities, others never", "[sampling]") {
  std::mt19937 rng(4);
  constexpr int64_t kNumDraws = 100'000;
  const std::vector<float> logits = random_logits(rng, 500, 2.0f);
  std::vector<SamplingParams> all(4);
  all[0].top_k = 20;
  all[1].top_p = 0.8f;
  all[2].min_p = 0.05f;
  all[3].top_k = 50;
  all[3].top_p = 0.9f;
  all[3].min_p = 0.01f;
  all[3].temperature = 0.8f;
  for (const SamplingParams& params : all) {
    const tests::NaiveRow naive = tests::naive_filter(logits, params);
    std::vector<double> probabilities(logits.size(), 0.0);
    for (size_t idx = 0; idx < naive.kept.size(); ++idx)
      probabilities[naive.kept[idx]] = naive.probabilities[idx];
    REQUIRE(naive.kept.size() > 3);
    std::vector<int64_t> counts(logits.size(), 0);
    SamplerScratch scratch;
    Sampler sampler(params, 5, {});
    for (int64_t draw_idx = 0; draw_idx < kNumDraws; ++draw_idx)
      ++counts[sampler.choose({.logits = logits}, scratch)->token_id];
    const tests::ChiSquare result = tests::chi_square(counts, probabilities, kNumDraws);
    INFO(result.statistic << " of " << result.threshold);
    CHECK(result.fits());
  }
}

SamplingParams random_params(std::mt19937& rng, int32_t vocab_size) {
  const auto chance = [&](unsigned one_in) { return rng() % one_in == 0; };
  const auto between = [&](float low, float high) {
    return low + (high - low) * static_cast<float>(rng() % 10'000) / 10'000.0f;
  };
  SamplingParams params;
  params.temperature = between(0.1f, 2.0f);
  if (chance(2)) params.top_k = static_cast<int32_t>(1 + rng() % (2u * vocab_size));
  if (chance(3)) params.top_k = static_cast<int32_t>(1 + rng() % 10);
  if (chance(2)) params.top_p = between(0.01f, 1.0f);
  if (chance(2)) params.min_p = between(0.0f, 1.0f) * between(0.0f, 1.0f);
  if (chance(2)) params.repetition_penalty = between(0.5f, 2.0f);
  if (chance(2)) params.frequency_penalty = between(-2.0f, 2.0f);
  if (chance(2)) params.presence_penalty = between(-2.0f, 2.0f);
  while (chance(2)) {
    const auto token_id = static_cast<int32_t>(rng() % static_cast<unsigned>(vocab_size));
    params.logit_bias.emplace_back(token_id, between(-20.0f, 20.0f));
  }
  return params;
}

// True when the draw at `u` is clear of rounding; then `chosen` must be the naive one.
bool is_clear_draw(const tests::NaiveRow& naive, double u, int32_t& expected) {
  double head = 0.0;
  for (size_t idx = 0; idx < naive.kept.size(); ++idx) {
    if (std::abs(u - head) < 1e-5) return false;
    head += naive.probabilities[idx];
    if (u < head) {
      expected = naive.kept[idx];
      return std::abs(u - head) >= 1e-5;
    }
  }
  return false;
}

TEST_CASE("any combination of filters and penalties chooses as the naive sampler", "[sampling]") {
  std::mt19937 rng(6);
  SamplerScratch scratch;
  int num_compared = 0, num_filtered = 0;
  for (int case_idx = 0; case_idx < 3000; ++case_idx) {
    INFO("case " << case_idx);
    const auto vocab_size = static_cast<int32_t>(1 + rng() % (case_idx % 10 == 0 ? 3000 : 80));
    SamplingParams params = random_params(rng, vocab_size);
    std::vector<int32_t> prompt(rng() % 20), output;
    for (int32_t& token_id : prompt) token_id = static_cast<int32_t>(rng() % vocab_size);
    REQUIRE_FALSE(params.temperature < kGreedyTemperature);
    Sampler sampler(params, case_idx, prompt);
    for (int step_idx = 0; step_idx < 4; ++step_idx) {
      std::vector<float> logits =
          random_logits(rng, static_cast<size_t>(vocab_size), step_idx == 0 ? 0.2f : 3.0f);
      const std::vector<float> modified = tests::naive_modified(logits, params, prompt, output);
      const tests::NaiveRow naive = tests::naive_filter(modified, params);
      const bool is_filtered = params.top_k > 0 || params.top_p < 1.0f || params.min_p > 0.0f;
      const auto token = sampler.choose({.logits = logits}, scratch);
      REQUIRE(token.ok());
      output.push_back(token->token_id);
      // The margin: weights carry a relative error of some 1e-6.
      if (naive.margin < 1e-5) continue;
      if (is_filtered) {
        ++num_filtered;
        REQUIRE(scratch.num_kept == static_cast<int64_t>(naive.kept.size()));
        std::vector<int32_t> kept;
        for (const ScoredToken& scored : scratch.kept) kept.push_back(scored.token_id);
        if (!kept.empty()) REQUIRE(kept == naive.kept);
      }
      int32_t expected = -1;
      const double u = uniform_at(case_idx, step_idx);
      if (!is_filtered || !is_clear_draw(naive, u, expected)) continue;
      ++num_compared;
      REQUIRE(token->token_id == expected);
    }
  }
  CHECK(num_filtered > 8000);
  CHECK(num_compared > 7500);
}

TEST_CASE("a sequence's draws depend on seed and place only", "[sampling]") {
  std::mt19937 rng(7);
  std::vector<std::vector<float>> rows;
  for (int row_idx = 0; row_idx < 50; ++row_idx) rows.push_back(random_logits(rng, 1000, 1.0f));
  const SamplingParams params;
  const auto play = [&](uint64_t seed, SamplerScratch& scratch, Sampler* between) {
    Sampler sampler(params, seed, {});
    std::vector<int32_t> token_ids;
    for (const std::vector<float>& row : rows) {
      token_ids.push_back(sampler.choose({.logits = row}, scratch)->token_id);
      if (between != nullptr) static_cast<void>(between->choose({.logits = rows[0]}, scratch));
    }
    return token_ids;
  };
  SamplerScratch scratch, shared;
  Sampler other(params, 8, {});
  const std::vector<int32_t> alone = play(1, scratch, nullptr);
  CHECK(play(1, shared, &other) == alone);
  CHECK(play(2, scratch, nullptr) != alone);
}

TEST_CASE("logprobs are of the unmodified distribution, best first", "[sampling]") {
  std::mt19937 rng(9);
  for (const float temperature : {0.0f, 1.5f}) {
    std::vector<float> logits = random_logits(rng, 2000, 5.0f);
    logits[17] = kNaN;
    double sum = 0.0;
    for (const float logit : logits) sum += std::isnan(logit) ? 0.0 : std::exp(double{logit});
    SamplingParams params;
    params.temperature = temperature;
    params.top_k = 3;
    params.logit_bias = {{5, 100.0f}};
    SamplerScratch scratch;
    Sampler sampler(params, 1, {});
    const auto token = sampler.choose({.logits = logits, .num_logprobs = 20}, scratch);
    REQUIRE(token.ok());
    CHECK(token->token_id == 5);
    // exp's 3e-7 in the sum, and rounding to float of a value below 64: 4e-6.
    CHECK(std::abs(token->logprob - (double{logits[5]} - std::log(sum))) < 5e-6);
    REQUIRE(token->top_logprobs.size() == 20);
    SamplingParams unfiltered;
    logits[17] = -kInf;
    const tests::NaiveRow naive = tests::naive_filter(logits, unfiltered);
    for (size_t idx = 0; idx < 20; ++idx) {
      CHECK(token->top_logprobs[idx].token_id == naive.kept[idx]);
      CHECK(std::abs(token->top_logprobs[idx].score - std::log(naive.probabilities[idx])) < 5e-6);
    }
  }
}

TEST_CASE("a forbidden token's logprob stays a number", "[sampling]") {
  std::vector<float> logits = {1.0f, -kInf, 3e38f, -3e38f};
  SamplingParams params;
  params.logit_bias = {{3, 3e38f}, {2, -3e38f}};
  params.temperature = 0.0f;
  SamplerScratch scratch;
  Sampler sampler(params, 1, {});
  const uint32_t mask = 0b1000;
  const auto token =
      sampler.choose({.logits = logits, .allowed_mask = {&mask, 1}, .num_logprobs = 4}, scratch);
  REQUIRE(token.ok());
  CHECK(token->token_id == 3);
  CHECK(token->logprob == kMinLogprob);
  for (const ScoredToken& scored : token->top_logprobs) CHECK(std::isfinite(scored.score));
}

TEST_CASE("infinite logits take all the weight, impossible ones none", "[sampling]") {
  SamplerScratch scratch;
  for (const float temperature : {0.0f, 1.0f}) {
    for (const float top_p : {0.5f, 1.0f}) {
      SamplingParams params;
      params.temperature = temperature;
      params.top_p = top_p;
      Sampler sampler(params, 3, {});
      for (int draw_idx = 0; draw_idx < 200; ++draw_idx) {
        const std::vector<float> one = {0.0f, kInf, 5.0f, -kInf, kNaN};
        const auto token = sampler.choose({.logits = one, .num_logprobs = 2}, scratch);
        REQUIRE(token.ok());
        REQUIRE(token->token_id == 1);
        REQUIRE(token->logprob == 0.0f);
        const std::vector<float> only = {-kInf, kNaN, -kInf, -70.0f};
        REQUIRE(sampler.choose({.logits = only}, scratch)->token_id == 3);
      }
    }
  }
}

TEST_CASE("a row that allows nothing is an error and leaves the sampler as it was", "[sampling]") {
  const std::vector<float> good = {1.0f, 2.0f, 1.5f, 0.0f};
  const std::vector<int32_t> all_ids = {0, 1, 2, 3};
  const uint32_t no_bits = 0;
  for (const float temperature : {0.0f, 1.0f}) {
    SamplingParams params;
    params.temperature = temperature;
    SamplerScratch scratch;
    Sampler sampler(params, 3, {}), untouched(params, 3, {});
    for (const float bad : {kNaN, -kInf}) {
      const std::vector<float> row(4, bad);
      CHECK_FALSE(sampler.choose({.logits = row}, scratch).ok());
      CHECK_FALSE(sampler.choose({.logits = row, .num_logprobs = 2}, scratch).ok());
    }
    CHECK_FALSE(sampler.choose({.logits = good, .banned_token_ids = all_ids}, scratch).ok());
    const auto masked = sampler.choose({.logits = good, .allowed_mask = {&no_bits, 1}}, scratch);
    REQUIRE_FALSE(masked.ok());
    CHECK(masked.error() == "every possible next token is forbidden");
    for (int draw_idx = 0; draw_idx < 20; ++draw_idx) {
      REQUIRE(sampler.choose({.logits = good}, scratch)->token_id ==
              untouched.choose({.logits = good}, scratch)->token_id);
    }
  }
}

TEST_CASE("only allowed and not banned tokens are chosen", "[sampling]") {
  std::mt19937 rng(10);
  SamplerScratch scratch;
  for (int case_idx = 0; case_idx < 300; ++case_idx) {
    const size_t vocab_size = 33 + rng() % 100;
    const std::vector<float> logits = random_logits(rng, vocab_size, 1.0f);
    std::vector<uint32_t> mask((vocab_size + 31) / 32, 0);
    const size_t first = rng() % vocab_size, second = rng() % vocab_size;
    mask[first / 32] |= 1u << (first % 32);
    mask[second / 32] |= 1u << (second % 32);
    const auto banned = static_cast<int32_t>(first);
    SamplingParams params;
    params.temperature = case_idx % 2 == 0 ? 0.0f : 1.0f;
    params.top_k = case_idx % 3;
    Sampler sampler(params, case_idx, {});
    const auto token = sampler.choose(
        {.logits = logits, .allowed_mask = mask, .banned_token_ids = {&banned, 1}}, scratch);
    REQUIRE(token.ok() == (first != second));
    if (token.ok()) REQUIRE(token->token_id == static_cast<int32_t>(second));
  }
}

TEST_CASE("logits of any size and any temperature give a token of the vocabulary", "[sampling]") {
  std::mt19937 rng(11);
  SamplerScratch scratch;
  for (const float scale : {1e-30f, 1.0f, 1e4f, 1e38f}) {
    for (const float temperature : {1e-9f, 1.1e-5f, 0.01f, 1.0f, 1e30f}) {
      std::vector<float> logits = random_logits(rng, 5000, 1.0f);
      for (float& logit : logits) logit *= scale;
      SamplingParams params;
      params.temperature = temperature;
      params.top_p = 0.9f;
      Sampler filtered(params, 1, {});
      params.top_p = 1.0f;
      Sampler unfiltered(params, 1, {});
      for (Sampler* sampler : {&filtered, &unfiltered}) {
        const auto token = sampler->choose({.logits = logits, .num_logprobs = 3}, scratch);
        REQUIRE(token.ok());
        REQUIRE(token->token_id >= 0);
        REQUIRE(token->token_id < 5000);
        REQUIRE(std::isfinite(token->logprob));
      }
    }
  }
}

}  // namespace
}  // namespace tandem
