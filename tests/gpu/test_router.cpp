#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <numeric>

#include "gpu/host/router.h"
#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {
namespace {

struct Choice {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Choice choose(std::vector<float> logits,
              const std::vector<float>& bias,
              const RouterParams& params) {
  std::vector<float> work(logits.size());
  Choice result{std::vector<int32_t>(static_cast<size_t>(params.num_experts_per_tok)),
                std::vector<float>(static_cast<size_t>(params.num_experts_per_tok))};
  host::choose_experts(logits, bias, params, work, result.ids, result.weights);
  return result;
}

// Equations 12-14 in double, by sorting.
Choice expected_choice(const std::vector<float>& logits,
                       const std::vector<float>& bias,
                       const RouterParams& params) {
  const auto num = static_cast<int32_t>(logits.size());
  std::vector<double> score(logits.size());
  std::vector<double> biased(logits.size());
  for (size_t idx = 0; idx < logits.size(); ++idx) {
    score[idx] = 1.0 / (1.0 + std::exp(-double{logits[idx]}));
    biased[idx] = static_cast<double>(static_cast<float>(score[idx]) + bias[idx]);
  }
  const int32_t group_size = num / params.n_group;
  std::vector<std::pair<double, int32_t>> groups;  // negated score: ascending order is best first
  for (int32_t group = 0; group < params.n_group; ++group) {
    std::vector<double> members(biased.begin() + group * group_size,
                                biased.begin() + (group + 1) * group_size);
    std::sort(members.rbegin(), members.rend());
    groups.emplace_back(-(members[0] + (group_size > 1 ? members[1] : 0.0)), group);
  }
  std::sort(groups.begin(), groups.end());
  groups.resize(static_cast<size_t>(params.topk_group));
  std::vector<std::pair<double, int32_t>> candidates;
  for (const auto& [negated, group] : groups) {
    for (int32_t id = group * group_size; id < (group + 1) * group_size; ++id) {
      candidates.emplace_back(-biased[static_cast<size_t>(id)], id);
    }
  }
  std::sort(candidates.begin(), candidates.end());
  Choice result;
  for (int32_t rank = 0; rank < params.num_experts_per_tok; ++rank) {
    result.ids.push_back(candidates[static_cast<size_t>(rank)].second);
  }
  std::sort(result.ids.begin(), result.ids.end());
  double sum = 1e-20;
  for (const int32_t id : result.ids) sum += score[static_cast<size_t>(id)];
  for (const int32_t id : result.ids) {
    const double weight = score[static_cast<size_t>(id)];
    result.weights.push_back(static_cast<float>((params.norm_topk_prob ? weight / sum : weight) *
                                                double{params.routed_scaling_factor}));
  }
  return result;
}

}  // namespace

TEST_CASE("the router chooses and weighs as equations 12 to 14 say", "[gpu][host]") {
  Values values(21);
  const std::vector<RouterParams> all_params{
      {.num_experts_per_tok = 8, .routed_scaling_factor = 2.827f},
      {.num_experts_per_tok = 6, .n_group = 8, .topk_group = 4},
      {.num_experts_per_tok = 3, .n_group = 4, .topk_group = 1, .norm_topk_prob = false},
      {.num_experts_per_tok = 1},
  };
  for (const RouterParams& params : all_params) {
    for (int repeat = 0; repeat < 50; ++repeat) {
      const std::vector<float> logits = values.vector<float>(64, 2.0f);
      const std::vector<float> bias = values.vector<float>(64, 0.2f);
      const Choice expected = expected_choice(logits, bias, params);
      const Choice actual = choose(logits, bias, params);
      REQUIRE(actual.ids == expected.ids);
      for (size_t rank = 0; rank < expected.ids.size(); ++rank) {
        // A score, a sum of num_experts_per_tok and two more operations, each rounded.
        const double limit = 16 * kUnitRoundoff * double{expected.weights[rank]};
        CHECK(std::abs(actual.weights[rank] - expected.weights[rank]) <= limit);
      }
    }
  }
}

TEST_CASE("on ties the router takes the lower index, of experts and of groups", "[gpu][host]") {
  const std::vector<float> bias(12, 0.0f);
  std::vector<float> logits(12, 0.5f);
  CHECK(choose(logits, bias, {.num_experts_per_tok = 3}).ids == std::vector<int32_t>{0, 1, 2});
  logits[7] = 0.75f;
  CHECK(choose(logits, bias, {.num_experts_per_tok = 3}).ids == std::vector<int32_t>{0, 1, 7});
  logits[7] = 0.5f;
  const RouterParams grouped{.num_experts_per_tok = 4, .n_group = 3, .topk_group = 2};
  CHECK(choose(logits, bias, grouped).ids == std::vector<int32_t>{0, 1, 2, 3});
  logits[11] = 0.75f;
  CHECK(choose(logits, bias, grouped).ids == std::vector<int32_t>{0, 1, 2, 11});
}

TEST_CASE("the router's bias changes the choice and never a weight", "[gpu][host]") {
  const std::vector<float> logits{0.0f, 1.0f, 2.0f, 3.0f};
  const std::vector<float> bias{10.0f, 0.0f, 0.0f, 0.0f};
  const Choice choice = choose(logits, bias, {.num_experts_per_tok = 2, .norm_topk_prob = false});
  REQUIRE(choice.ids == std::vector<int32_t>{0, 3});
  CHECK(choice.weights[0] == 0.5f);
}

TEST_CASE("the router names experts that exist whatever the logits", "[gpu][host]") {
  const std::vector<float> logits(16, kNan);
  const std::vector<float> bias(16, 0.0f);
  for (const RouterParams& params :
       {RouterParams{.num_experts_per_tok = 4},
        RouterParams{.num_experts_per_tok = 4, .n_group = 4, .topk_group = 2}}) {
    for (const int32_t id : choose(logits, bias, params).ids) CHECK((id >= 0 && id < 16));
  }
}

TEST_CASE("router_topk is linear followed by the choice, the same for any batch",
          "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  Values values(22);
  constexpr int64_t kTokens = 37;
  const TestMatrix<bf16> hidden = values.matrix<bf16>(kTokens, 96);
  const TestMatrix<bf16> gate_matrix = values.matrix<bf16>(24, 96, 0.1f);
  const std::vector<float> bias = values.vector<float>(24, 0.1f);
  const auto gate = device.ops->load_linear(gate_matrix.view());
  const RouterParams params{.num_experts_per_tok = 4, .routed_scaling_factor = 1.5f};

  TestMatrix<float> logits(kTokens, 24);
  device.ops->linear(hidden.view(), *gate, logits.view());
  std::vector<int32_t> ids(kTokens * 4);
  std::vector<float> weights(kTokens * 4);
  device.ops->router_topk(hidden.view(), *gate, bias, params, {}, {ids.data(), kTokens, 4},
                          {weights.data(), kTokens, 4});
  for (int64_t token = 0; token < kTokens; ++token) {
    const auto row = logits.view().row(token);
    const Choice expected = choose({row.begin(), row.end()}, bias, params);
    CHECK(std::equal(expected.ids.begin(), expected.ids.end(), ids.begin() + token * 4));
    CHECK(
        std::equal(expected.weights.begin(), expected.weights.end(), weights.begin() + token * 4));
    std::vector<int32_t> ids_alone(4);
    std::vector<float> weights_alone(4);
    device.ops->router_topk(hidden.view().rows_from(token, 1), *gate, bias, params, {},
                            {ids_alone.data(), 1, 4}, {weights_alone.data(), 1, 4});
    CHECK(ids_alone == expected.ids);
    CHECK(weights_alone == expected.weights);
  }
}

TEST_CASE("router_topk takes the rows along that it was asked to, and chooses the same",
          "[gpu][host]") {
  HostDevice device(2, *host::supported_kernels().back());
  Values values(23);
  for (const int64_t num_tokens : {1, 70}) {
    TestMatrix<bf16> hidden = values.matrix<bf16>(num_tokens, 96);
    const TestMatrix<bf16> before = hidden;
    const TestMatrix<bf16> gate_matrix = values.matrix<bf16>(24, 96, 0.1f);
    const std::vector<float> bias = values.vector<float>(24, 0.1f);
    const auto gate = device.ops->load_linear(gate_matrix.view());
    const RouterParams params{.num_experts_per_tok = 4, .routed_scaling_factor = 1.5f};
    const auto num = static_cast<size_t>(4 * num_tokens);
    std::vector<int32_t> expected_ids(num), ids(num), own_ids(num);
    std::vector<float> expected_weights(num), weights(num), own_weights(num);
    device.ops->router_topk(hidden.view(), *gate, bias, params, {},
                            {expected_ids.data(), num_tokens, 4},
                            {expected_weights.data(), num_tokens, 4});
    TestMatrix<bf16> copy(num_tokens, 96);
    device.ops->router_topk(hidden.view(), *gate, bias, params, copy.view(),
                            {ids.data(), num_tokens, 4}, {weights.data(), num_tokens, 4});
    CHECK(ids == expected_ids);
    CHECK(weights == expected_weights);
    CHECK(same_bits(std::span(copy.values), std::span(before.values)));
    // Onto itself, where both are the same memory.
    device.ops->router_topk(hidden.view(), *gate, bias, params, hidden.view(),
                            {own_ids.data(), num_tokens, 4}, {own_weights.data(), num_tokens, 4});
    CHECK(own_ids == expected_ids);
    CHECK(own_weights == expected_weights);
    CHECK(same_bits(std::span(hidden.values), std::span(before.values)));
  }
}

}  // namespace tandem::gpu::testing
