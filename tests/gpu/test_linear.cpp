#include <catch2/catch_test_macros.hpp>

#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {
namespace {

// x W^T in double, and the sum of the absolute products, which bounds every rounding.
struct Expected {
  double value = 0.0;
  double absolute = 0.0;
};
Expected expected_at(const TestMatrix<bf16>& x,
                     const TestMatrix<bf16>& w,
                     int64_t row,
                     int64_t col) {
  Expected result;
  for (int64_t k = 0; k < x.cols; ++k) {
    const double product =
        double{x.view()(row, k).to_float()} * double{w.view()(col, k).to_float()};
    result.value += product;
    result.absolute += std::abs(product);
  }
  return result;
}

// A chain of num_terms additions, each rounding a partial sum of at most `absolute` (1 + small);
// a BF16 product is exact in FP32, and a dot-product instruction may round twice a step.
double tolerance(int64_t num_terms, double absolute) {
  return 2.0 * static_cast<double>(num_terms + 1) * kUnitRoundoff * absolute;
}

void check_product(HostDevice& device, int64_t rows, int64_t out, int64_t in, uint32_t seed) {
  INFO("rows " << rows << ", out " << out << ", in " << in << ", seed " << seed);
  Values values(seed);
  const TestMatrix<bf16> x = values.matrix<bf16>(rows, in);
  const TestMatrix<bf16> w = values.matrix<bf16>(out, in);
  const std::unique_ptr<LinearWeight> weight = device.ops->load_linear(w.view());
  REQUIRE(weight->out_features == out);
  REQUIRE(weight->in_features == in);

  TestMatrix<float> product(rows, out);
  device.ops->linear(x.view(), *weight, product.view());
  int64_t num_wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < out; ++col) {
      const Expected expected = expected_at(x, w, row, col);
      const double error = std::abs(product.view()(row, col) - expected.value);
      num_wrong += !(error <= tolerance(in, expected.absolute));
    }
  }
  CHECK(num_wrong == 0);
  CHECK(product.padding_is_untouched());

  // The other forms are roundings of the same sums.
  TestMatrix<bf16> rounded(rows, out);
  device.ops->linear(x.view(), *weight, rounded.view());
  TestMatrix<float> sum = values.matrix<float>(rows, out);
  const TestMatrix<float> before = sum;
  device.ops->linear_add(x.view(), *weight, sum.view());
  int64_t num_different = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < out; ++col) {
      const float value = product.view()(row, col);
      num_different += !(rounded.view()(row, col) == bf16(value));
      num_different += sum.view()(row, col) != before.view()(row, col) + value;
    }
  }
  CHECK(num_different == 0);
  CHECK(rounded.padding_is_untouched());
  CHECK(sum.padding_is_untouched());
}

}  // namespace

TEST_CASE("linear equals the naive product for odd sizes and reads no padding",
          "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  uint32_t seed = 1;
  for (const int64_t rows : {1, 2, 3, 5, 6, 7, 12, 13, 25, 49, 70}) {
    for (const int64_t out : {1, 15, 16, 17, 50}) {
      for (const int64_t in : {1, 2, 3, 31, 32, 77}) check_product(device, rows, out, in, seed++);
    }
  }
}

TEST_CASE("linear equals the naive product across every block boundary", "[gpu][host][per_isa]") {
  HostDevice device(3, kernels_under_test());
  check_product(device, 1, 700, 1111, 1);
  check_product(device, 4, 333, 1030, 2);
  check_product(device, 14, 300, 1025, 3);
  check_product(device, 211, 275, 519, 4);
}

TEST_CASE("a row of a product has the same bits alone, in any batch and on any number of threads",
          "[gpu][host][per_isa]") {
  const host::Kernels& kernels = kernels_under_test();
  Values values(5);
  constexpr int64_t kRows = 203;
  constexpr int64_t kOut = 280;
  constexpr int64_t kIn = 1047;
  const TestMatrix<bf16> x = values.matrix<bf16>(kRows, kIn);
  const TestMatrix<bf16> w = values.matrix<bf16>(kOut, kIn);

  HostDevice alone(1, kernels);
  const auto weight = alone.ops->load_linear(w.view());
  TestMatrix<float> expected(kRows, kOut);
  for (int64_t row = 0; row < kRows; ++row) {
    alone.ops->linear(x.view().rows_from(row, 1), *weight, expected.view().rows_from(row, 1));
  }
  for (const int num_threads : {1, 2, 3, 4}) {
    HostDevice device(num_threads, kernels);
    const auto packed = device.ops->load_linear(w.view());
    for (const int64_t rows : {2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 24, 25, 70, 97, 193, 203}) {
      TestMatrix<float> product(rows, kOut);
      const int64_t first = (kRows - rows) / 2;
      device.ops->linear(x.view().rows_from(first, rows), *packed, product.view());
      int64_t num_different = 0;
      for (int64_t row = 0; row < rows; ++row) {
        num_different += !same_bits(product.view().row(row), expected.view().row(first + row));
      }
      INFO("threads " << num_threads << ", rows " << rows);
      CHECK(num_different == 0);
    }
  }
}

TEST_CASE("matrices loaded together give their outputs one after the other",
          "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  Values values(6);
  const TestMatrix<bf16> x = values.matrix<bf16>(5, 45);
  const TestMatrix<bf16> first = values.matrix<bf16>(21, 45);
  const TestMatrix<bf16> second = values.matrix<bf16>(3, 45);
  const TestMatrix<bf16> third = values.matrix<bf16>(40, 45);
  const std::vector<MatrixView<const bf16>> views{first.view(), second.view(), third.view()};
  const auto together = device.ops->load_linear(views);
  REQUIRE(together->out_features == 64);
  TestMatrix<float> product(5, 64);
  device.ops->linear(x.view(), *together, product.view());
  int64_t begin = 0;
  for (const TestMatrix<bf16>* matrix : {&first, &second, &third}) {
    const auto weight = device.ops->load_linear(matrix->view());
    TestMatrix<float> part(5, matrix->rows);
    device.ops->linear(x.view(), *weight, part.view());
    for (int64_t row = 0; row < 5; ++row) {
      CHECK(same_bits(product.view().columns(begin, matrix->rows).row(row), part.view().row(row)));
    }
    begin += matrix->rows;
  }
}

TEST_CASE("a product of no rows writes nothing", "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  Values values(7);
  const TestMatrix<bf16> w = values.matrix<bf16>(20, 30);
  const auto weight = device.ops->load_linear(w.view());
  TestMatrix<float> out(1, 20);
  device.ops->linear(MatrixView<const bf16>(nullptr, 0, 30), *weight, out.view().first_rows(0));
  CHECK(std::isnan(out.values[0]));
}

}  // namespace tandem::gpu::testing
