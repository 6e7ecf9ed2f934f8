#include <catch2/catch_test_macros.hpp>

#include "runtime/sampling/sampler.h"
#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {

TEST_CASE("sample draws what a sequence's own sampler draws at its n-th choice", "[gpu][host]") {
  HostDevice device(1, *host::supported_kernels().back());
  Values values(61);
  const std::vector<TokenChoice> kinds{{},
                                       {.temperature = 0.0f},
                                       {.temperature = 0.6f, .top_k = 20},
                                       {.top_k = -1, .top_p = 0.8f},
                                       {.temperature = 1.3f, .min_p = 0.05f}};
  constexpr uint64_t kDraws = 6;
  constexpr int64_t kVocab = 2'500;
  for (const TokenChoice& kind : kinds) {
    SamplingParams params;
    params.temperature = kind.temperature;
    params.top_k = kind.top_k;
    params.top_p = kind.top_p;
    params.min_p = kind.min_p;
    Sampler sampler(params, 99, {});
    SamplerScratch scratch;
    // One sequence's draws, as rows of one step.
    const TestMatrix<float> logits = values.matrix<float>(kDraws, kVocab, 3.0f);
    std::vector<TokenChoice> choices(kDraws, kind);
    std::vector<int32_t> expected;
    for (uint64_t draw = 0; draw < kDraws; ++draw) {
      choices[draw].seed = 99;
      choices[draw].draw_idx = draw;
      const auto row = logits.view().row(static_cast<int64_t>(draw));
      expected.push_back(sampler.choose({.logits = row}, scratch).value().token_id);
    }
    std::vector<int32_t> token_ids(kDraws, -2);
    device.ops->sample(logits.view(), choices, token_ids);
    device.ops->synchronize();
    CHECK(token_ids == expected);
  }
}

TEST_CASE("sample says -1 where no token is possible", "[gpu][host]") {
  HostDevice device(1, *host::supported_kernels().back());
  TestMatrix<float> logits(2, 100);
  logits.view()(1, 42) = 0.0f;  // the rest is NaN
  const std::vector<TokenChoice> choices{{}, {}};
  std::vector<int32_t> token_ids(2, -2);
  device.ops->sample(logits.view(), choices, token_ids);
  CHECK(token_ids == std::vector<int32_t>{-1, 42});
}

}  // namespace tandem::gpu::testing
