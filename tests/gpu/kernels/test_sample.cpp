#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "gpu/cuda/kernels/sample-inl.h"
#include "runtime/sampling/philox.h"
#include "runtime/sampling/sampler.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

struct Filters {
  float temperature = 1.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
};

constexpr float kInfinity = std::numeric_limits<float>::infinity();

int32_t host_token(std::span<const float> logits, const Filters& filters, uint64_t seed) {
  SamplingParams params;
  params.temperature = filters.temperature;
  params.top_k = filters.top_k;
  params.top_p = filters.top_p;
  params.min_p = filters.min_p;
  SamplerScratch scratch;
  Sampler sampler(params, seed, {});
  const auto chosen = sampler.choose({.logits = logits}, scratch);
  return chosen.ok() ? chosen.value().token_id : -1;
}

// Every row of `logits` with every seed.
void check_like_host(const TestMatrix<float>& logits,
                     const Filters& filters,
                     std::span<const uint64_t> seeds,
                     simt::ThreadOrder order) {
  const bool is_greedy = filters.temperature < kGreedyTemperature;
  for (const uint64_t seed : seeds) {
    const std::vector<cuda::SampleRow> rows(static_cast<size_t>(logits.rows),
                                            {.scale = is_greedy ? 1.0f : 1.0f / filters.temperature,
                                             .top_k = is_greedy ? 1 : filters.top_k,
                                             .top_p = filters.top_p,
                                             .min_p = filters.min_p,
                                             .uniform = uniform_at(seed, 0)});
    std::vector<int32_t> ids(rows.size(), -2);
    simt::emulate<cuda::Sample>({logits.view(), rows.data(), ids.data()}, order);
    for (int64_t row = 0; row < logits.rows; ++row) {
      INFO("row " << row << ", seed " << seed);
      CHECK(ids[static_cast<size_t>(row)] == host_token(logits.view().row(row), filters, seed));
    }
  }
}

TEST_CASE("sample draws the token that the host draws, whatever the filters", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Filters filters = GENERATE(
      Filters{}, Filters{.temperature = 0.0f}, Filters{.temperature = 0.6f}, Filters{.top_k = 1},
      Filters{.top_k = 7}, Filters{.top_k = 100'000}, Filters{.top_p = 0.9f},
      Filters{.top_p = 1e-9f}, Filters{.temperature = 3.0f, .top_p = 0.999f},
      Filters{.min_p = 0.05f}, Filters{.min_p = 1.0f},
      Filters{.temperature = 0.7f, .top_k = 40, .top_p = 0.8f, .min_p = 0.01f});
  const std::vector<uint64_t> seeds{1, 2};
  Values values(20);
  for (const int64_t vocab_size : {int64_t{1}, int64_t{33}, int64_t{2500}}) {
    TestMatrix<float> logits = values.matrix<float>(3, vocab_size, 2.5f);
    for (int64_t col = 0; col < vocab_size; col += 5) logits.view()(1, col) = -kInfinity;
    for (float& logit : logits.view().row(2)) logit = std::round(logit);  // many ties, both zeros
    check_like_host(logits, filters, seeds, order);
  }
}

TEST_CASE("sample treats NaN as impossible and +inf as certain, as the host", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Filters filters = GENERATE(Filters{}, Filters{.temperature = 0.0f}, Filters{.top_k = 3},
                                   Filters{.top_p = 0.5f});
  const std::vector<uint64_t> seeds{4, 5};
  Values values(21);
  TestMatrix<float> logits = values.matrix<float>(5, 70);
  for (int64_t col = 0; col < 70; ++col) {
    if (col % 3 != 0) logits.view()(0, col) = kNan;
    if (col % 20 == 7) logits.view()(1, col) = kInfinity;
    logits.view()(2, col) = kNan;
    logits.view()(3, col) = -kInfinity;
    logits.view()(4, col) = col == 69 ? -1e30f : kNan;
  }
  check_like_host(logits, filters, seeds, order);
}

TEST_CASE("weights of sample are the host's to the bit, and keys are in the order of values",
          "[cuda_kernels]") {
  int64_t num_different = 0;
  for (float x = 0.0f; x > -100.0f; x = x * 1.001f - 1e-4f)
    num_different += cuda::sampling_exp(x) != exp_of_nonpositive(x);
  CHECK(num_different == 0);
  const std::vector<float> ascending{-kInfinity, -3e38f, -1.0f, -1e-40f, 0.0f,
                                     1e-40f,     0.5f,   1.0f,  3e38f,   kInfinity};
  for (size_t idx = 0; idx < ascending.size(); ++idx) {
    CHECK(cuda::value_of_key(cuda::ordered_key(ascending[idx])) == ascending[idx]);
    if (idx > 0) CHECK(cuda::ordered_key(ascending[idx - 1]) < cuda::ordered_key(ascending[idx]));
  }
}

}  // namespace
}  // namespace tandem::gpu::testing
