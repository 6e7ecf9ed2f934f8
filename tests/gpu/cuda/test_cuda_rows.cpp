#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <utility>
#include <vector>

#include "tests/gpu/cuda/ops_test_support.h"

namespace tandem::gpu::cuda::testing {
namespace {

const std::vector<int64_t> kWidths{1, 2, 3, 7, 8, 9, 31, 33, 255, 257, 576, 1536, 7168};

}  // namespace

TEST_CASE("on a card embed, gather_logit_rows and add move rows exactly", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  ops->reserve({.max_batch_tokens = 8, .max_logit_rows = 8, .max_context_tokens = 64},
               kNoAttention);
  Values values(15);
  for (const int64_t width : kWidths) {
    const auto table = values.matrix<bf16>(9, width);
    const auto on_host = values.matrix<float>(4, width);
    const auto on_card = values.matrix<float>(4, width);
    const CardMatrix<float> card_addend(*ops, on_card.view());
    const CardMatrix<bf16> card_table(*ops, table.view());
    CardMatrix<float> residual(*ops, 4, width);
    CardMatrix<float> gathered(*ops, 2, width);
    const PinnedMatrix pinned_addend(*ops, on_host.view());
    const std::vector<int32_t> ids{8, 0, 3, 3};
    const std::vector<int32_t> rows{0, 3};
    ops->begin_step({.token_ids = ids, .items = {}, .logit_token_idx = rows}, MlaForm::kAuto);
    ops->embed(card_table.view(), residual.view());
    ops->add(std::vector<MatrixView<const float>>{pinned_addend.view(), card_addend.view()},
             residual.view());
    ops->gather_logit_rows(residual.view(), gathered.view());
    const MatrixView<const float> sum = residual.fetch();
    const MatrixView<const float> picked = gathered.fetch();
    int64_t num_wrong = 0;
    for (int64_t col = 0; col < width; ++col) {
      for (int64_t row = 0; row < 4; ++row) {
        num_wrong += sum(row, col) != table.view()(ids[static_cast<size_t>(row)], col).to_float() +
                                          on_host.view()(row, col) + on_card.view()(row, col);
      }
      num_wrong += picked(0, col) != sum(0, col);
      num_wrong += picked(1, col) != sum(3, col);
    }
    INFO("width " << width);
    CHECK(num_wrong == 0);
    CHECK(residual.padding_is_untouched());
    CHECK(gathered.padding_is_untouched());
  }
}

TEST_CASE("on a card rms_norm and swiglu are the host's up to a tie of the rounding", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  HostDevice host(1, *host::supported_kernels().back());
  Values values(11);
  for (const int64_t width : kWidths) {
    const auto x = values.matrix<float>(3, width, 2.0f);
    const auto gate_up = values.matrix<float>(3, 2 * width, 4.0f);
    const std::vector<bf16> weight = values.vector<bf16>(width);
    const CardMatrix<float> card_x(*ops, x.view());
    const CardMatrix<float> card_gate_up(*ops, gate_up.view());
    const CardVector<bf16> card_weight(*ops, weight);
    CardMatrix<bf16> normed(*ops, 3, width);
    CardMatrix<bf16> activated(*ops, 3, width);
    ops->rms_norm(card_x.view(), card_weight.view(), 1e-5f, normed.view());
    ops->swiglu(card_gate_up.view(), activated.view());
    gpu::testing::TestMatrix<bf16> expected_normed(3, width);
    gpu::testing::TestMatrix<bf16> expected_activated(3, width);
    host.ops->rms_norm(x.view(), weight, 1e-5f, expected_normed.view());
    host.ops->swiglu(gate_up.view(), expected_activated.view());
    // Each side rounds to BF16 once, from FP32 values that differ by width + 8 roundings at most:
    // one step of BF16.
    const auto check = [&](MatrixView<const bf16> actual, MatrixView<const bf16> expected) {
      int64_t num_wrong = 0;
      for (int64_t row = 0; row < 3; ++row) {
        for (int64_t col = 0; col < width; ++col) {
          const double value = expected(row, col).to_float();
          const double limit = 2.0 * kBf16UnitRoundoff * std::abs(value) + 1e-33;
          num_wrong += !(std::abs(actual(row, col).to_float() - value) <= limit);
        }
      }
      CHECK(num_wrong == 0);
    };
    INFO("width " << width);
    check(normed.fetch(), expected_normed.view());
    check(activated.fetch(), expected_activated.view());
    CHECK(normed.padding_is_untouched());
    CHECK(activated.padding_is_untouched());
  }
}

TEST_CASE("on a card add_rms_norm sums exactly, and is rms_norm of the sum", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  Values values(12);
  for (const int64_t width : kWidths) {
    const auto before = values.matrix<float>(3, width, 2.0f);
    const auto on_host = values.matrix<float>(3, width);
    const auto on_card = values.matrix<float>(3, width);
    auto expected = before;
    for (int64_t row = 0; row < 3; ++row) {
      for (int64_t col = 0; col < width; ++col) {
        expected.view()(row, col) += on_host.view()(row, col);
        expected.view()(row, col) += on_card.view()(row, col);
      }
    }
    const CardVector<bf16> weight(*ops, values.vector<bf16>(width));
    const PinnedMatrix pinned_addend(*ops, on_host.view());
    const CardMatrix<float> card_addend(*ops, on_card.view());
    const CardMatrix<float> expected_x(*ops, expected.view());
    CardMatrix<float> x(*ops, before.view());
    CardMatrix<bf16> normed(*ops, 3, width);
    CardMatrix<bf16> expected_normed(*ops, 3, width);
    ops->add_rms_norm(
        std::vector<MatrixView<const float>>{pinned_addend.view(), card_addend.view()}, x.view(),
        weight.view(), 1e-5f, normed.view());
    ops->rms_norm(expected_x.view(), weight.view(), 1e-5f, expected_normed.view());
    const MatrixView<const float> sum = x.fetch();
    const MatrixView<const bf16> actual = normed.fetch();
    const MatrixView<const bf16> same = expected_normed.fetch();
    INFO("width " << width);
    for (int64_t row = 0; row < 3; ++row) {
      CHECK(same_bits(sum.row(row), std::as_const(expected).view().row(row)));
      CHECK(same_bits(actual.row(row), same.row(row)));
    }
    CHECK(x.padding_is_untouched());
    CHECK(normed.padding_is_untouched());
  }
}

TEST_CASE("on a card the router chooses what the host chooses from the same logits", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  ops->reserve({.max_batch_tokens = 64,
                .max_logit_rows = 64,
                .max_context_tokens = 64,
                .n_routed_experts = 384},
               kNoAttention);
  HostDevice host(2, *host::supported_kernels().back());
  Values values(22);
  // Weights and activations are small whole numbers: every sum is exact in any order, so that the
  // logits are equal to the bit.
  const auto whole_numbers = [&](int64_t rows, int64_t cols, int32_t limit) {
    gpu::testing::TestMatrix<bf16> matrix(rows, cols);
    for (int64_t row = 0; row < rows; ++row) {
      for (bf16& value : matrix.view().row(row)) {
        value = bf16(static_cast<float>(values.below(2 * limit + 1) - limit) / 64.0f);
      }
    }
    return matrix;
  };
  for (const int64_t num_experts : {8, 64, 384}) {
    for (const int64_t num_tokens : {1, 4, 5, 16, 17, 64}) {
      const auto hidden = whole_numbers(num_tokens, 256, 8);
      const auto gate_matrix = whole_numbers(num_experts, 256, 8);
      const std::vector<float> bias = values.vector<float>(num_experts, 0.05f);
      const RouterParams params{.num_experts_per_tok = 4,
                                .n_group = num_experts == 64 ? 8 : 1,
                                .topk_group = num_experts == 64 ? 4 : 1,
                                .routed_scaling_factor = 2.827f};
      const CardMatrix<bf16> card_hidden(*ops, hidden.view());
      const CardVector<float> card_bias(*ops, bias);
      const auto card_gate = ops->load_linear(gate_matrix.view());
      CardMatrix<int32_t> ids(*ops, num_tokens, 4);
      CardMatrix<float> weights(*ops, num_tokens, 4);
      ops->router_topk(card_hidden.view(), *card_gate, card_bias.view(), params, {}, ids.view(),
                       weights.view());
      const auto gate = host.ops->load_linear(gate_matrix.view());
      std::vector<int32_t> expected_ids(static_cast<size_t>(num_tokens * 4));
      std::vector<float> expected_weights(expected_ids.size());
      host.ops->router_topk(hidden.view(), *gate, bias, params, {},
                            {expected_ids.data(), num_tokens, 4},
                            {expected_weights.data(), num_tokens, 4});
      // The same for the host, with the rows.
      const auto host_hidden = ops->allocate_host(static_cast<size_t>(num_tokens * 256 * 2));
      const auto host_ids = ops->allocate_host(static_cast<size_t>(num_tokens * 4 * 4));
      const auto host_weights = ops->allocate_host(static_cast<size_t>(num_tokens * 4 * 4));
      const MatrixView<bf16> copy(reinterpret_cast<bf16*>(host_hidden->data()), num_tokens, 256);
      const MatrixView<int32_t> copied_ids(reinterpret_cast<int32_t*>(host_ids->data()), num_tokens,
                                           4);
      const MatrixView<float> copied_weights(reinterpret_cast<float*>(host_weights->data()),
                                             num_tokens, 4);
      ops->router_topk(card_hidden.view(), *card_gate, card_bias.view(), params, copy, copied_ids,
                       copied_weights);
      const MatrixView<const int32_t> actual_ids = ids.fetch();
      const MatrixView<const float> actual_weights = weights.fetch();
      for (int64_t token = 0; token < num_tokens; ++token) {
        REQUIRE(same_bits(copy.row(token), hidden.view().row(token)));
        REQUIRE(same_bits(copied_ids.row(token), actual_ids.row(token)));
        REQUIRE(same_bits(copied_weights.row(token), actual_weights.row(token)));
      }
      INFO("experts " << num_experts << ", tokens " << num_tokens);
      for (int64_t token = 0; token < num_tokens; ++token) {
        for (int64_t rank = 0; rank < 4; ++rank) {
          const auto idx = static_cast<size_t>(token * 4 + rank);
          REQUIRE(actual_ids(token, rank) == expected_ids[idx]);
          // expf of both sides within 2 units, a sum of 4, two more operations.
          REQUIRE(std::abs(actual_weights(token, rank) - expected_weights[idx]) <=
                  32 * kUnitRoundoff * expected_weights[idx]);
        }
      }
    }
  }
}

TEST_CASE("a card receives another logical device's rows after what was asked of it", "[gpu]") {
  require_card();
  const auto source = make_cuda_ops(0);
  const auto target = make_cuda_ops(0);
  Values values(17);
  for (const int64_t width : {8, 264, 7168}) {
    const auto rows = values.matrix<float>(5, width);
    CardMatrix<float> from(*source, 5, width);
    CardMatrix<float> to(*target, 5, width);
    const CardMatrix<float> start(*source, rows.view());
    source->receive(*source, start.view(), from.view());
    target->receive(*source, from.view(), to.view());
    const MatrixView<const float> actual = to.fetch();
    int64_t num_wrong = 0;
    for (int64_t row = 0; row < 5; ++row) {
      num_wrong += !same_bits(actual.row(row), rows.view().row(row));
    }
    CHECK(num_wrong == 0);
    CHECK(to.padding_is_untouched());
  }
}

TEST_CASE("memory of a card is zeroed, aligned and holds what was uploaded", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  for (const size_t size_bytes : {size_t{0}, size_t{1}, size_t{4096}, size_t{100} << 20}) {
    const auto buffer = ops->allocate(size_bytes);
    REQUIRE(buffer->size_bytes() == size_bytes);
    REQUIRE(reinterpret_cast<uintptr_t>(buffer->data()) % 64 == 0);
    const auto back = ops->allocate_host(size_bytes);
    const auto holds = [&](const std::vector<std::byte>& expected) {
      return std::equal(expected.begin(), expected.end(), back->data());
    };
    std::fill_n(back->data(), size_bytes, std::byte{1});
    ops->copy_to_host({buffer->data(), size_bytes}, {back->data(), size_bytes});
    ops->synchronize();
    CHECK(holds(std::vector<std::byte>(size_bytes)));
    std::vector<std::byte> bytes(size_bytes);
    for (size_t idx = 0; idx < size_bytes; ++idx) bytes[idx] = static_cast<std::byte>(idx * 7 + 1);
    const auto copy = ops->upload(bytes);
    ops->copy_to_host({copy->data(), size_bytes}, {back->data(), size_bytes});
    ops->synchronize();
    CHECK(holds(bytes));
    ops->copy_to_device({back->data(), size_bytes}, {buffer->data(), size_bytes});
    ops->synchronize();
    std::fill_n(back->data(), size_bytes, std::byte{1});
    ops->copy_to_host({buffer->data(), size_bytes}, {back->data(), size_bytes});
    ops->synchronize();
    CHECK(holds(bytes));
  }
}

}  // namespace tandem::gpu::cuda::testing
