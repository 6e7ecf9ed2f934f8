#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "gpu/cuda/kernels/skinny_linear-inl.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

using cuda::LinearOutput;
using cuda::SkinnyLinearParams;

enum class Body { kGemv2, kGemv4, kMma };

template <int kTokens>
void emulate_gemv(const SkinnyLinearParams& params, Body body, simt::ThreadOrder order) {
  if (body == Body::kGemv2) {
    simt::emulate<cuda::SkinnyGemv<kTokens, 2>>(params, order);
  } else {
    simt::emulate<cuda::SkinnyGemv<kTokens, 4>>(params, order);
  }
}

void emulate_linear(const SkinnyLinearParams& params, Body body, simt::ThreadOrder order) {
  if (body == Body::kMma) {
    if (params.x.rows <= 8) {
      simt::emulate<cuda::SkinnyMma<1>>(params, order);
    } else {
      simt::emulate<cuda::SkinnyMma<2>>(params, order);
    }
    return;
  }
  switch (params.x.rows) {
    case 1:
      emulate_gemv<1>(params, body, order);
      break;
    case 2:
      emulate_gemv<2>(params, body, order);
      break;
    case 3:
      emulate_gemv<3>(params, body, order);
      break;
    default:
      REQUIRE(params.x.rows == 4);
      emulate_gemv<4>(params, body, order);
  }
}

struct Product {
  double value = 0.0;
  double size = 0.0;  // sum of absolute values
};

Product product(std::span<const bf16> a, std::span<const bf16> b) {
  Product result;
  for (size_t idx = 0; idx < a.size(); ++idx) {
    const double term = double{a[idx].to_float()} * b[idx].to_float();
    result.value += term;
    result.size += std::abs(term);
  }
  return result;
}

// Whatever the order: a term passes through at most as many additions as there are terms, and the
// emulated mma rounds its products' sum once more.
double sum_limit(const Product& product, int64_t num_terms) {
  return static_cast<double>(num_terms + 16) * kUnitRoundoff * product.size;
}

TEST_CASE("skinny_linear equals the reference in every form, for every remainder",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Body body = GENERATE(Body::kGemv2, Body::kGemv4, Body::kMma);
  struct Shape {
    int64_t num_tokens, out, in;
  };
  Values values(8);
  for (const Shape shape : {Shape{1, 1, 8}, Shape{2, 33, 40}, Shape{3, 17, 520}, Shape{4, 5, 2056},
                            Shape{4, 16, 1032}, Shape{1, 50, 64}, Shape{5, 40, 264},
                            Shape{9, 18, 96}, Shape{16, 16, 128}, Shape{37, 20, 1096}}) {
    if (body != Body::kMma && shape.num_tokens > 4) continue;
    const auto x = aligned_matrix<bf16>(values, shape.num_tokens, shape.in);
    const auto weight = aligned_matrix<bf16>(values, shape.out, shape.in, 0.1f);
    AlignedMatrix<float> plain(shape.num_tokens, shape.out);
    auto sum = aligned_matrix<float>(values, shape.num_tokens, shape.out);
    const AlignedMatrix<float> before = sum;
    AlignedMatrix<bf16> rounded(shape.num_tokens, shape.out);
    SkinnyLinearParams params{.x = x.view(), .weight = weight.view()};
    params.out_float = plain.view();
    emulate_linear(params, body, order);
    params.output = LinearOutput::kAddFloat;
    params.out_float = sum.view();
    emulate_linear(params, body, order);
    params.output = LinearOutput::kBf16;
    params.out_bf16 = rounded.view();
    emulate_linear(params, body, order);
    int64_t num_wrong = 0;
    for (int64_t row = 0; row < shape.num_tokens; ++row) {
      for (int64_t col = 0; col < shape.out; ++col) {
        const Product expected = product(x.view().row(row), weight.view().row(col));
        const float actual = plain.view()(row, col);
        CHECK(std::abs(actual - expected.value) <= sum_limit(expected, shape.in));
        num_wrong += sum.view()(row, col) != before.view()(row, col) + actual;
        num_wrong += rounded.view()(row, col) != bf16(actual);
      }
    }
    CHECK(num_wrong == 0);
    CHECK(plain.padding_is_untouched());
    CHECK(sum.padding_is_untouched());
    CHECK(rounded.padding_is_untouched());
  }
}

TEST_CASE("skinny_linear with SwiGLU pairs gate and up", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const auto [body, num_tokens] =
      GENERATE(std::pair{Body::kGemv2, int64_t{1}}, std::pair{Body::kGemv4, int64_t{3}},
               std::pair{Body::kMma, int64_t{3}}, std::pair{Body::kMma, int64_t{13}});
  Values values(9);
  for (const int64_t size : {int64_t{1}, int64_t{7}, int64_t{24}, int64_t{33}}) {
    const int64_t in = 136;
    const auto x = aligned_matrix<bf16>(values, num_tokens, in);
    const auto weight = aligned_matrix<bf16>(values, 2 * size, in, 0.2f);
    AlignedMatrix<bf16> out(num_tokens, size);
    emulate_linear({.x = x.view(),
                    .weight = weight.view(),
                    .output = LinearOutput::kSwiglu,
                    .out_bf16 = out.view()},
                   body, order);
    for (int64_t row = 0; row < num_tokens; ++row) {
      for (int64_t col = 0; col < size; ++col) {
        const Product gate = product(x.view().row(row), weight.view().row(col));
        const Product up = product(x.view().row(row), weight.view().row(size + col));
        const double silu = gate.value / (1.0 + std::exp(-gate.value));
        // silu's slope is below 1.1; half a BF16 step, 8 FP32 roundings.
        const double limit =
            1.1 * sum_limit(gate, in) * std::abs(up.value) + std::abs(silu) * sum_limit(up, in) +
            std::abs(silu * up.value) * (kBf16UnitRoundoff + 8 * kUnitRoundoff) + 1e-33;
        CHECK(std::abs(out.view()(row, col).to_float() - silu * up.value) <= limit);
      }
    }
    CHECK(out.padding_is_untouched());
  }
}

TEST_CASE("a row of skinny_linear has the same bits for any number of tokens of its path",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Body body = GENERATE(Body::kGemv2, Body::kMma);
  const int64_t num_tokens = body == Body::kMma ? 21 : 4;
  Values values(10);
  const auto x = aligned_matrix<bf16>(values, num_tokens, 1032);
  const auto weight = aligned_matrix<bf16>(values, 19, 1032);
  AlignedMatrix<float> together(num_tokens, 19);
  AlignedMatrix<float> alone(num_tokens, 19);
  SkinnyLinearParams params{.x = x.view(), .weight = weight.view()};
  params.out_float = together.view();
  emulate_linear(params, body, order);
  for (int64_t row = 0; row < num_tokens; ++row) {
    params.x = x.view().rows_from(row, 1);
    params.out_float = alone.view().rows_from(row, 1);
    // Nor does it matter how many rows of the weight a warp takes.
    emulate_linear(params, body == Body::kMma ? body : Body::kGemv4, order);
    CHECK(same_bits(together.view().row(row), alone.view().row(row)));
  }
}

TEST_CASE("skinny_linear multiplies every head by its own matrix", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Body body = GENERATE(Body::kGemv4, Body::kMma);
  const int64_t num_tokens = body == Body::kMma ? GENERATE(2, 11) : 3;
  struct Shape {  // q_nope behind which a rope part stands; the latent output
    int64_t num_heads, in, behind, out;
  };
  Values values(11);
  for (const Shape shape : {Shape{3, 32, 16, 64}, Shape{5, 24, 8, 48}, Shape{2, 128, 64, 40}}) {
    const int64_t head_dim = shape.in + shape.behind;
    const auto x = aligned_matrix<bf16>(values, num_tokens, shape.num_heads * head_dim);
    const auto weight = aligned_matrix<bf16>(values, shape.num_heads * shape.out, shape.in);
    AlignedMatrix<bf16> out(num_tokens, shape.num_heads * shape.out);
    emulate_linear({.x = x.view().columns(0, shape.in),
                    .weight = weight.view().first_rows(shape.out),
                    .output = LinearOutput::kBf16,
                    .out_bf16 = out.view(),
                    .num_heads = static_cast<int32_t>(shape.num_heads),
                    .x_head_stride = head_dim,
                    .weight_head_stride = shape.out * weight.stride,
                    .out_head_stride = shape.out},
                   body, order);
    for (int64_t token = 0; token < num_tokens; ++token) {
      for (int64_t col = 0; col < out.cols; ++col) {
        const int64_t head = col / shape.out;
        const Product expected =
            product(x.view().columns(head * head_dim, shape.in).row(token), weight.view().row(col));
        CHECK(std::abs(out.view()(token, col).to_float() - expected.value) <=
              sum_limit(expected, shape.in) + kBf16UnitRoundoff * std::abs(expected.value));
      }
    }
    CHECK(out.padding_is_untouched());
  }
}

TEST_CASE("column tiles of an mma take every row of the weight, gate beside up", "[cuda_kernels]") {
  for (const int64_t num_rows : {2, 14, 16, 30, 48}) {
    std::vector<int> num_taken(static_cast<size_t>(num_rows), 0);
    for (int64_t col = 0; col < num_rows; col += 16) {
      for (int i = 0; i < 16 && col + i < num_rows; ++i)
        ++num_taken[static_cast<size_t>(
            cuda::mma_weight_row(LinearOutput::kFloat, num_rows, col, i))];
    }
    const int64_t half = num_rows / 2;
    for (int64_t col = 0; col < half; col += 8) {
      for (int i = 0; i < 8 && col + i < half; ++i) {
        const int64_t gate = cuda::mma_weight_row(LinearOutput::kSwiglu, num_rows, col, i);
        const int64_t up = cuda::mma_weight_row(LinearOutput::kSwiglu, num_rows, col, i + 8);
        CHECK((gate == col + i && up == half + gate));
      }
    }
    CHECK(std::all_of(num_taken.begin(), num_taken.end(), [](int num) { return num == 1; }));
    CHECK(cuda::mma_weight_row(LinearOutput::kFloat, num_rows, num_rows - 1, 15) == num_rows - 1);
    CHECK(cuda::mma_weight_row(LinearOutput::kSwiglu, num_rows, half - 1, 15) == num_rows - 1);
  }
}

}  // namespace
}  // namespace tandem::gpu::testing
