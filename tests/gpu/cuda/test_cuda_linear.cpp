#include <catch2/catch_test_macros.hpp>
#include <cmath>

#include "tests/gpu/cuda/ops_test_support.h"

namespace tandem::gpu::cuda::testing {
namespace {

// Against the product in double: a sum of num_terms exact BF16 products in any order, each partial
// sum at most `absolute`, rounded at every step.
struct Expected {
  double value = 0.0;
  double absolute = 0.0;
};
Expected expected_at(MatrixView<const bf16> x, MatrixView<const bf16> w, int64_t row, int64_t col) {
  Expected result;
  for (int64_t k = 0; k < x.cols; ++k) {
    const double product = double{x(row, k).to_float()} * double{w(col, k).to_float()};
    result.value += product;
    result.absolute += std::abs(product);
  }
  return result;
}

void check_product(Ops& ops, int64_t rows, int64_t out, int64_t in, uint32_t seed) {
  INFO("rows " << rows << ", out " << out << ", in " << in << ", seed " << seed);
  Values values(seed);
  const auto x = values.matrix<bf16>(rows, in);
  const auto w = values.matrix<bf16>(out, in);
  const auto before = values.matrix<float>(rows, out);
  const CardMatrix<bf16> card_x(ops, x.view());
  const auto weight = ops.load_linear(w.view());
  CardMatrix<float> product(ops, rows, out);
  CardMatrix<bf16> rounded(ops, rows, out);
  CardMatrix<float> sum(ops, before.view());
  for (int repeat = 0; repeat < 2; ++repeat) {  // the first run may choose an algorithm
    ops.linear(card_x.view(), *weight, product.view());
    ops.linear(card_x.view(), *weight, rounded.view());
  }
  ops.linear_add(card_x.view(), *weight, sum.view());
  const MatrixView<const float> actual = product.fetch();
  const MatrixView<const bf16> actual_rounded = rounded.fetch();
  const MatrixView<const float> actual_sum = sum.fetch();
  int64_t num_wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    // All rows of small products, some of the columns of large ones.
    const int64_t step = rows * out * in > 1 << 24 ? 37 : 1;
    for (int64_t col = row % step; col < out; col += step) {
      const Expected expected = expected_at(x.view(), w.view(), row, col);
      const double limit = 2.0 * static_cast<double>(in + 1) * kUnitRoundoff * expected.absolute;
      num_wrong += !(std::abs(actual(row, col) - expected.value) <= limit);
      num_wrong += !(std::abs(actual_rounded(row, col).to_float() - expected.value) <=
                     limit + 1.01 * kBf16UnitRoundoff * std::abs(expected.value));
      const double old = before.view()(row, col);
      num_wrong += !(std::abs(actual_sum(row, col) - (old + expected.value)) <=
                     limit + 2.0 * kUnitRoundoff * (std::abs(old) + expected.absolute));
    }
  }
  CHECK(num_wrong == 0);
  CHECK(product.padding_is_untouched());
  CHECK(rounded.padding_is_untouched());
  CHECK(sum.padding_is_untouched());
}

}  // namespace

TEST_CASE("on a card linear equals the product in double for few and many tokens", "[gpu][wide]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  uint32_t seed = 1;
  for (const int64_t rows : {1, 2, 3, 4, 5, 8, 9, 16, 17, 31, 32, 33, 64, 100, 257}) {
    for (const int64_t out : {8, 24, 130, 384}) {
      for (const int64_t in : {8, 40, 576}) check_product(*ops, rows, out, in, seed++);
    }
  }
}

TEST_CASE("on a card linear equals the product in double at K2's widths", "[gpu][wide]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  for (const int64_t rows : {1, 4, 16, 40}) {
    check_product(*ops, rows, 2112, 7168, 71);
    check_product(*ops, rows, 12288, 1536, 72);
    check_product(*ops, rows, 7168, 8192, 73);
  }
}

TEST_CASE("on a card linear_swiglu is the host's up to roundings to BF16", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  HostDevice host(2, *host::supported_kernels().back());
  Values values(9);
  constexpr int64_t kIn = 512;
  constexpr int64_t kOut = 168;
  const auto w = values.matrix<bf16>(2 * kOut, kIn, 0.06f);
  const auto weight = ops->load_linear(w.view());
  const auto host_weight = host.ops->load_linear(w.view());
  for (const int64_t rows : {1, 4, 5, 16, 17, 70}) {
    const auto x = values.matrix<bf16>(rows, kIn);
    const CardMatrix<bf16> card_x(*ops, x.view());
    CardMatrix<float> gate_up(*ops, rows, 2 * kOut);
    CardMatrix<bf16> out(*ops, rows, kOut);
    ops->linear_swiglu(card_x.view(), *weight, gate_up.view(), out.view());
    gpu::testing::TestMatrix<float> host_gate_up(rows, 2 * kOut);
    gpu::testing::TestMatrix<bf16> expected(rows, kOut);
    host.ops->linear_swiglu(x.view(), *host_weight, host_gate_up.view(), expected.view());
    const MatrixView<const bf16> actual = out.fetch();
    int64_t num_wrong = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < kOut; ++col) {
        // One step of BF16; the FP32 products, of about 1, differ by kIn roundings of their terms.
        const double value = expected.view()(row, col).to_float();
        num_wrong += !(std::abs(actual(row, col).to_float() - value) <=
                       2.0 * kBf16UnitRoundoff * std::abs(value) + 8.0 * kIn * kUnitRoundoff);
      }
    }
    INFO("rows " << rows);
    CHECK(num_wrong == 0);
    CHECK(out.padding_is_untouched());
  }
}

TEST_CASE("on a card the same product is the same bits again", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  Values values(5);
  const auto x = values.matrix<bf16>(203, 1048);
  const auto w = values.matrix<bf16>(280, 1048);
  const CardMatrix<bf16> card_x(*ops, x.view());
  const auto weight = ops->load_linear(w.view());
  for (const int64_t rows : {1, 4, 7, 16, 40, 203}) {
    CardMatrix<float> first(*ops, rows, 280);
    CardMatrix<float> second(*ops, rows, 280);
    ops->linear(card_x.view().first_rows(rows), *weight, first.view());
    ops->linear(card_x.view().first_rows(rows), *weight, first.view());
    ops->linear(card_x.view().first_rows(rows), *weight, second.view());
    const MatrixView<const float> a = first.fetch();
    const MatrixView<const float> b = second.fetch();
    int64_t num_different = 0;
    for (int64_t row = 0; row < rows; ++row) num_different += !same_bits(a.row(row), b.row(row));
    INFO("rows " << rows);
    CHECK(num_different == 0);
  }
}

TEST_CASE("on a card matrices loaded together give their outputs one after the other", "[gpu]") {
  require_card();
  const auto ops = make_cuda_ops(0);
  Values values(6);
  const auto first = values.matrix<bf16>(24, 48);
  const auto second = values.matrix<bf16>(8, 48);
  const std::vector<MatrixView<const bf16>> views{first.view(), second.view()};
  const auto together = ops->load_linear(views);
  REQUIRE(together->out_features == 32);
  for (const int64_t rows : {3, 50}) {
    const auto x = values.matrix<bf16>(rows, 48);
    const CardMatrix<bf16> card_x(*ops, x.view());
    CardMatrix<float> product(*ops, rows, 32);
    ops->linear(card_x.view(), *together, product.view());
    const MatrixView<const float> actual = product.fetch();
    int64_t num_wrong = 0;
    for (int64_t row = 0; row < rows; ++row) {
      for (int64_t col = 0; col < 32; ++col) {
        const Expected expected = col < 24 ? expected_at(x.view(), first.view(), row, col)
                                           : expected_at(x.view(), second.view(), row, col - 24);
        num_wrong += !(std::abs(actual(row, col) - expected.value) <=
                       2.0 * 49 * kUnitRoundoff * expected.absolute);
      }
    }
    CHECK(num_wrong == 0);
  }
}

}  // namespace tandem::gpu::cuda::testing
