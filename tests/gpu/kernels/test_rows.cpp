#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "gpu/cuda/kernels/rms_norm-inl.h"
#include "gpu/cuda/kernels/rows-inl.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

const std::vector<int64_t> kWidths{1, 2, 7, 31, 32, 33, 129, 255, 256, 257, 2112};

cuda::Addends addends_of(const std::vector<MatrixView<const float>>& matrices) {
  cuda::Addends addends{.matrices = {}, .num = static_cast<int32_t>(matrices.size())};
  std::copy(matrices.begin(), matrices.end(), addends.matrices);
  return addends;
}

TEST_CASE("embed, gather_rows and add move the rows that they name", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Values values(1);
  for (const int64_t width : kWidths) {
    const TestMatrix<bf16> table = values.matrix<bf16>(9, width);
    const std::vector<int32_t> ids{8, 0, 3, 3};
    TestMatrix<float> residual(4, width);
    simt::emulate<cuda::Embed>({ids.data(), table.view(), residual.view()}, order);
    const TestMatrix<float> first = values.matrix<float>(4, width);
    const TestMatrix<float> second = values.matrix<float>(4, width);
    TestMatrix<float> sum = residual;
    simt::emulate<cuda::Add>({addends_of({first.view(), second.view()}), sum.view()}, order);
    const std::vector<int32_t> rows{3, 0};
    TestMatrix<float> gathered(2, width);
    simt::emulate<cuda::GatherRows>({rows.data(), sum.view(), gathered.view()}, order);
    int64_t num_wrong = 0;
    for (int64_t col = 0; col < width; ++col) {
      for (int64_t row = 0; row < 4; ++row) {
        const float expected = table.view()(ids[static_cast<size_t>(row)], col).to_float();
        num_wrong += residual.view()(row, col) != expected;
        num_wrong +=
            sum.view()(row, col) != expected + first.view()(row, col) + second.view()(row, col);
      }
      num_wrong += gathered.view()(0, col) != sum.view()(3, col);
      num_wrong += gathered.view()(1, col) != sum.view()(0, col);
    }
    CHECK(num_wrong == 0);
    CHECK(residual.padding_is_untouched());
    CHECK(sum.padding_is_untouched());
    CHECK(gathered.padding_is_untouched());
  }
}

TEST_CASE("swiglu equals silu(gate) * up over the whole range of its input", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Values values(2);
  for (const int64_t width : kWidths) {
    for (const float sigma : {0.1f, 40.0f}) {
      const TestMatrix<float> gate_up = values.matrix<float>(2, 2 * width, sigma);
      TestMatrix<bf16> out(2, width);
      simt::emulate<cuda::Swiglu>({gate_up.view(), out.view()}, order);
      for (int64_t row = 0; row < 2; ++row) {
        for (int64_t col = 0; col < width; ++col) {
          const double z = gate_up.view()(row, col);
          const double expected = z / (1.0 + std::exp(-z)) * gate_up.view()(row, width + col);
          // Half a BF16 step, 8 FP32 roundings, and results under exp(-86), which become 0.
          const double limit = std::abs(expected) * (kBf16UnitRoundoff + 8 * kUnitRoundoff) + 1e-33;
          CHECK(std::abs(out.view()(row, col).to_float() - expected) <= limit);
        }
      }
      CHECK(out.padding_is_untouched());
    }
  }
}

void check_norm(std::span<const float> x,
                const std::vector<bf16>& weight,
                float eps,
                std::span<const bf16> out) {
  double squares = 0.0;
  for (size_t col = 0; col < out.size(); ++col) squares += double{x[col]} * x[col];
  const double factor = 1.0 / std::sqrt(squares / static_cast<double>(out.size()) + eps);
  for (size_t col = 0; col < out.size(); ++col) {
    const double expected = double{weight[col].to_float()} * x[col] * factor;
    // Half a BF16 step; and width + 8 roundings in FP32, which can only tip a tie.
    const double limit = std::abs(expected) *
                         (kBf16UnitRoundoff + static_cast<double>(out.size() + 8) * kUnitRoundoff);
    CHECK(std::abs(out[col].to_float() - expected) <= limit);
  }
}

// Matrix: TestMatrix, whose rows begin anywhere, or AlignedMatrix, whose rows are read 16 bytes at
// a time.
template <typename Matrix, typename OutMatrix>
void check_add_norm(int64_t rows, int64_t width, size_t num_addends, simt::ThreadOrder order) {
  Values values(static_cast<uint32_t>(3 + width));
  const auto matrix = [&](float sigma) {
    Matrix result(rows, width);
    values.fill(result.view(), sigma);
    return result;
  };
  Matrix x = matrix(2.0f);
  const Matrix before = x;
  std::vector<Matrix> addends;
  std::vector<MatrixView<const float>> views;
  for (size_t idx = 0; idx < num_addends; ++idx) addends.push_back(matrix(1.0f));
  for (const Matrix& addend : addends) views.push_back(addend.view());
  const std::vector<bf16> weight = values.vector<bf16>(width);
  OutMatrix out(rows, width);
  simt::emulate<cuda::RmsNorm>({.x = x.view(),
                                .addends = addends_of(views),
                                .weight = weight.data(),
                                .out = out.view(),
                                .eps = 1e-5f},
                               order);
  INFO("width " << width << ", addends " << num_addends);
  int64_t num_wrong = 0;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t col = 0; col < width; ++col) {
      float expected = before.view()(row, col);
      for (const Matrix& addend : addends) expected += addend.view()(row, col);
      num_wrong += x.view()(row, col) != expected;
    }
    check_norm(x.view().row(row), weight, 1e-5f, out.view().row(row));
  }
  CHECK(num_wrong == 0);
  CHECK(x.padding_is_untouched());
  CHECK(out.padding_is_untouched());
}

TEST_CASE("rms_norm adds in order, writes the sum back and rounds the norm once",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const size_t num_addends = GENERATE(0u, 1u, 3u);
  for (const int64_t width : kWidths) {
    check_add_norm<TestMatrix<float>, TestMatrix<bf16>>(3, width, num_addends, order);
    check_add_norm<AlignedMatrix<float>, AlignedMatrix<bf16>>(3, width, num_addends, order);
  }
  // K2's own, and more than a CTA takes in one go.
  for (const int64_t width : {7168, 8194, 8196, 16'400}) {
    check_add_norm<AlignedMatrix<float>, AlignedMatrix<bf16>>(1, width, num_addends, order);
  }
}

TEST_CASE("rms_norm takes the first columns of wider rows, with the same bits in any batch",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Values values(4);
  TestMatrix<float> x = values.matrix<float>(5, 2112);
  const std::vector<bf16> weight = values.vector<bf16>(1536);
  TestMatrix<bf16> together(5, 1536);
  TestMatrix<bf16> alone(5, 1536);
  cuda::RmsNormParams params{
      .x = x.view(), .addends = {}, .weight = weight.data(), .out = together.view(), .eps = 1e-6f};
  simt::emulate<cuda::RmsNorm>(params, order);
  for (int64_t row = 0; row < 5; ++row) {
    params.x = x.view().rows_from(row, 1);
    params.out = alone.view().rows_from(row, 1);
    simt::emulate<cuda::RmsNorm>(params, order);
    check_norm(x.view().row(row), weight, 1e-6f, together.view().row(row));
    CHECK(same_bits(together.view().row(row), alone.view().row(row)));
  }
}

}  // namespace
}  // namespace tandem::gpu::testing
