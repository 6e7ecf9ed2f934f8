// Routed experts on a card against the host as a device and their equations.
#include <catch2/catch_test_macros.hpp>
#include <cstdint>
#include <numeric>
#include <vector>

#include "tests/gpu/cuda/ops_test_support.h"
#include "tests/gpu/int4_expert.h"

namespace tandem::gpu::cuda::testing {
namespace {

using gpu::testing::Int4Layer;
using gpu::testing::TestMatrix;

constexpr int32_t kMaxTokens = 80;

// `values` with rows behind them, as a step may have: filled with `rest`.
template <typename T>
TestMatrix<T> with_rows_behind(MatrixView<const T> values, int64_t num_rows, T rest) {
  TestMatrix<T> result(num_rows, values.cols);
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t col = 0; col < values.cols; ++col) {
      result.view()(row, col) = row < values.rows ? values(row, col) : rest;
    }
  }
  return result;
}

// A decode step with a token of every sequence.
int64_t begin_decode(Ops& ops, int32_t num_tokens) {
  static const int32_t kPage = 0;
  std::vector<int32_t> rows(static_cast<size_t>(num_tokens));
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<BatchItem> items;
  for (int32_t token = 0; token < num_tokens; ++token) {
    items.push_back({.token_begin = token, .num_tokens = 1, .page_ids = {&kPage, 1}});
  }
  return ops.begin_step({.token_ids = rows, .items = items, .logit_token_idx = rows},
                        MlaForm::kAuto);
}

void check_layer(const ExpertsShape& shape, int32_t num_tokens) {
  INFO("hidden " << shape.hidden_size << ", tokens " << num_tokens);
  const Int4Layer layer(shape, num_tokens, static_cast<uint32_t>(shape.hidden_size + num_tokens));
  const OpsLimits limits{.max_batch_tokens = kMaxTokens,
                         .max_logit_rows = kMaxTokens,
                         .max_context_tokens = 64,
                         .experts = shape};
  const auto card = make_cuda_ops(0);
  card->reserve(limits, kNoAttention);
  const auto weights = layer.load(*card);
  const int64_t num_rows = begin_decode(*card, num_tokens);
  // No id behind the tokens is an expert's: reading its weights would be out of bounds.
  const auto ids = with_rows_behind<int32_t>(layer.id_view(), num_rows, 1 << 20);
  const auto expert_weights = with_rows_behind<float>(layer.weight_view(), num_rows, kNan);
  const auto hidden = with_rows_behind<bf16>(layer.hidden.view(), num_rows, bf16(kNan));
  const auto residual = with_rows_behind<float>(layer.residual.view(), num_rows, 3.0f);
  const CardMatrix<bf16> card_hidden(*card, hidden.view());
  const CardMatrix<int32_t> card_ids(*card, ids.view());
  const CardMatrix<float> card_weights(*card, expert_weights.view());
  CardMatrix<float> card_residual(*card, residual.view());
  card->add_routed_experts(card_hidden.view(), *weights, card_ids.view(), card_weights.view(),
                           card_residual.view());
  const MatrixView<const float> on_card = card_residual.fetch();
  CHECK(card_residual.padding_is_untouched());

  HostDevice host(2, gpu::host::active_kernels());
  host.ops->reserve(limits, kNoAttention);
  const auto host_weights = layer.load(*host.ops);
  TestMatrix<float> on_host = layer.residual;
  host.ops->add_routed_experts(layer.hidden.view(), *host_weights, layer.id_view(),
                               layer.weight_view(), on_host.view());
  for (int64_t token = 0; token < num_tokens; ++token) {
    INFO("token " << token);
    // Two roundings to BF16, of the activation and of an expert's output; FP32 is far below.
    REQUIRE(layer.relative_error(token, on_card.row(token)) <= 2 * kBf16UnitRoundoff);
    REQUIRE(layer.relative_error(token, on_host.view().row(token)) <= 2 * kBf16UnitRoundoff);
  }
  for (int64_t row = num_tokens; row < num_rows; ++row) {
    for (const float value : on_card.row(row)) REQUIRE(value == 3.0f);
  }
}

}  // namespace

TEST_CASE("on a card routed experts equal their equations, as the host's do, on both paths",
          "[gpu]") {
  require_card();
  // With 9 experts, 4 a token, tiles of 64 tokens begin at 19.
  for (const int32_t num_tokens : {1, 3, 18, 19, 65, 80}) {
    check_layer({.hidden_size = 64,
                 .moe_intermediate_size = 32,
                 .n_routed_experts = 9,
                 .num_experts_per_tok = 4},
                num_tokens);
  }
  for (const int32_t num_tokens : {5, 20}) {
    check_layer({.hidden_size = 288,
                 .moe_intermediate_size = 96,
                 .n_routed_experts = 9,
                 .num_experts_per_tok = 4},
                num_tokens);
  }
  check_layer({.hidden_size = 1'024,
               .moe_intermediate_size = 512,
               .n_routed_experts = 3,
               .num_experts_per_tok = 2},
              5);
}

}  // namespace tandem::gpu::cuda::testing
