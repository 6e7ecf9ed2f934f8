#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <set>

#include "gpu/cuda/kernels/router_topk-inl.h"
#include "gpu/host/router.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice choose(const TestMatrix<float>& logits,
              const std::vector<float>& bias,
              const RouterParams& params,
              simt::ThreadOrder order) {
  const auto size = static_cast<size_t>(logits.rows * params.num_experts_per_tok);
  Choice choice{std::vector<int32_t>(size), std::vector<float>(size)};
  simt::emulate<cuda::RouterTopk>(
      {.logits = logits.view(),
       .e_score_correction_bias = bias.empty() ? nullptr : bias.data(),
       .expert_ids = {choice.ids.data(), logits.rows, params.num_experts_per_tok},
       .expert_weights = {choice.weights.data(), logits.rows, params.num_experts_per_tok},
       .n_group = params.n_group,
       .topk_group = params.topk_group,
       .norm_topk_prob = params.norm_topk_prob,
       .routed_scaling_factor = params.routed_scaling_factor},
      order);
  return choice;
}

Choice host_choice(const TestMatrix<float>& logits,
                   const std::vector<float>& bias,
                   const RouterParams& params) {
  Choice choice;
  for (int64_t row = 0; row < logits.rows; ++row) {
    std::vector<float> scores(logits.view().row(row).begin(), logits.view().row(row).end());
    std::vector<float> work(scores.size());
    std::vector<int32_t> ids(static_cast<size_t>(params.num_experts_per_tok));
    std::vector<float> weights(ids.size());
    host::choose_experts(scores, bias, params, work, ids, weights);
    choice.ids.insert(choice.ids.end(), ids.begin(), ids.end());
    choice.weights.insert(choice.weights.end(), weights.begin(), weights.end());
  }
  return choice;
}

TEST_CASE("router_topk chooses and weighs as the host does", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  struct Case {
    int64_t num_experts;
    RouterParams params;
  };
  const Case test = GENERATE(
      Case{384, {.num_experts_per_tok = 8, .routed_scaling_factor = 2.827f}},
      Case{64, {.num_experts_per_tok = 6, .n_group = 8, .topk_group = 4}},
      Case{12, {.num_experts_per_tok = 3, .n_group = 4, .topk_group = 1, .norm_topk_prob = false}},
      Case{32, {.num_experts_per_tok = 4, .n_group = 32, .topk_group = 5}},
      Case{7, {.num_experts_per_tok = 7}}, Case{1, {.num_experts_per_tok = 1}},
      Case{100, {.num_experts_per_tok = 32}});
  Values values(6);
  const TestMatrix<float> logits = values.matrix<float>(20, test.num_experts, 2.0f);
  const std::vector<float> bias = values.vector<float>(test.num_experts, 0.2f);
  for (const std::vector<float>& some_bias : {bias, std::vector<float>{}}) {
    const Choice expected = host_choice(logits, some_bias, test.params);
    const Choice actual = choose(logits, some_bias, test.params, order);
    REQUIRE(actual.ids == expected.ids);
    for (size_t idx = 0; idx < expected.weights.size(); ++idx) {
      // Both: a score (two roundings and those of exp), a sum, two more operations.
      const double limit = 80 * kUnitRoundoff * double{expected.weights[idx]};
      CHECK(std::abs(actual.weights[idx] - expected.weights[idx]) <= limit);
    }
  }
}

TEST_CASE("router_topk takes the rows along that it was asked to, and chooses the same",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const int64_t width = GENERATE(8, 32, 264, 7168, 7208);
  Values values(8);
  const TestMatrix<float> logits = values.matrix<float>(3, 16, 2.0f);
  const RouterParams params{.num_experts_per_tok = 4};
  const Choice expected = choose(logits, {}, params, order);
  const AlignedMatrix<bf16> hidden = aligned_matrix<bf16>(values, 3, width);
  AlignedMatrix<bf16> copy(3, width);
  Choice actual{std::vector<int32_t>(12), std::vector<float>(12)};
  simt::emulate<cuda::RouterTopk>({.logits = logits.view(),
                                   .e_score_correction_bias = nullptr,
                                   .expert_ids = {actual.ids.data(), 3, 4},
                                   .expert_weights = {actual.weights.data(), 3, 4},
                                   .n_group = 1,
                                   .topk_group = 1,
                                   .norm_topk_prob = true,
                                   .routed_scaling_factor = 1.0f,
                                   .hidden = hidden.view(),
                                   .hidden_copy = copy.view()},
                                  order);
  CHECK(actual.ids == expected.ids);
  CHECK(actual.weights == expected.weights);
  CHECK(same_bits(copy.buffer.values(), hidden.buffer.values()));
}

TEST_CASE("router_topk takes the lower index on ties, of experts and of groups", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  TestMatrix<float> logits(1, 40);
  std::fill(logits.view().row(0).begin(), logits.view().row(0).end(), 0.5f);
  const RouterParams plain{.num_experts_per_tok = 3};
  const RouterParams grouped{.num_experts_per_tok = 4, .n_group = 4, .topk_group = 2};
  CHECK(choose(logits, {}, plain, order).ids == std::vector<int32_t>{0, 1, 2});
  CHECK(choose(logits, {}, grouped, order).ids == std::vector<int32_t>{0, 1, 2, 3});
  logits.view()(0, 39) = 0.75f;
  CHECK(choose(logits, {}, plain, order).ids == std::vector<int32_t>{0, 1, 39});
  CHECK(choose(logits, {}, grouped, order).ids == std::vector<int32_t>{0, 1, 2, 39});
}

TEST_CASE("router_topk's bias changes the choice and never a weight", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  TestMatrix<float> logits(1, 4);
  for (int64_t col = 0; col < 4; ++col) logits.view()(0, col) = static_cast<float>(col);
  const Choice choice = choose(logits, {10.0f, 0.0f, 0.0f, 0.0f},
                               {.num_experts_per_tok = 2, .norm_topk_prob = false}, order);
  REQUIRE(choice.ids == std::vector<int32_t>{0, 3});
  CHECK(choice.weights[0] == 0.5f);
}

TEST_CASE("router_topk names different experts that exist, whatever the logits", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const int32_t num_nan = GENERATE(16, 14);
  TestMatrix<float> logits(1, 16);
  for (int64_t col = 0; col < 16; ++col) logits.view()(0, col) = col < num_nan ? kNan : 0.0f;
  for (const RouterParams& params :
       {RouterParams{.num_experts_per_tok = 16},
        RouterParams{.num_experts_per_tok = 5, .n_group = 4, .topk_group = 2}}) {
    const Choice choice = choose(logits, {}, params, order);
    const std::set<int32_t> different(choice.ids.begin(), choice.ids.end());
    CHECK(different.size() == choice.ids.size());
    CHECK((*different.begin() >= 0 && *different.rbegin() < 16));
    if (num_nan == 14) CHECK((different.contains(14) && different.contains(15)));
  }
}

}  // namespace
}  // namespace tandem::gpu::testing
