#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "gpu/cuda/kernels/rope_kv-inl.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

struct Shape {
  int32_t num_heads, nope, rope, rank;
};

// The FP32 angle is the model's definition; beyond it, double.
void rotate(double& even, double& odd, int32_t position, float frequency, float magnitude) {
  const float angle = static_cast<float>(position) * frequency;
  const double cosine = std::cos(double{angle}) * magnitude;
  const double sine = std::sin(double{angle}) * magnitude;
  const double rotated = even * cosine - odd * sine;
  odd = odd * cosine + even * sine;
  even = rotated;
}

// Half a BF16 step of the result; a few FP32 roundings of operands as large as `scale`.
void check_close(bf16 actual, double expected, double scale) {
  CHECK(std::abs(actual.to_float() - expected) <=
        std::abs(expected) * kBf16UnitRoundoff + scale * 16 * kUnitRoundoff);
}

TEST_CASE("rope_and_append_kv rotates pairs and fills the slots that it is given, no others",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Shape shape = GENERATE(Shape{4, 32, 16, 64}, Shape{1, 8, 2, 17}, Shape{33, 16, 64, 512},
                               Shape{3, 24, 8, 48});
  Values values(5);
  const std::vector<int32_t> positions{0, 70, 262143, 5};
  const std::vector<int32_t> slots{64, 3 * 64 + 6, 4 * 64 + 63, -1};
  const int64_t num_tokens = 4;
  const int64_t head_dim = shape.nope + shape.rope;
  const int64_t kv_dim = shape.rank + shape.rope;
  const TestMatrix<bf16> q_before = values.matrix<bf16>(num_tokens, shape.num_heads * head_dim);
  const TestMatrix<float> kv_a = values.matrix<float>(num_tokens, kv_dim);
  const std::vector<bf16> weight = values.vector<bf16>(shape.rank);
  std::vector<float> frequencies;
  for (int idx = 0; idx < shape.rope / 2; ++idx)
    frequencies.push_back(static_cast<float>(std::pow(50000.0, -2.0 * idx / shape.rope)));
  std::vector<bf16> cache(static_cast<size_t>(5 * 64 * kv_dim), bf16(kNan));
  TestMatrix<bf16> q = q_before;
  const float magnitude = 1.25f;
  simt::emulate<cuda::RopeAndAppendKv>({.q = q.view(),
                                        .kv_a = kv_a.view(),
                                        .positions = positions.data(),
                                        .kv_slots = slots.data(),
                                        .kv_a_layernorm = weight.data(),
                                        .frequencies = frequencies.data(),
                                        .cache = cache.data(),
                                        .num_attention_heads = shape.num_heads,
                                        .qk_nope_head_dim = shape.nope,
                                        .qk_rope_head_dim = shape.rope,
                                        .kv_lora_rank = shape.rank,
                                        .eps = 1e-6f,
                                        .magnitude = magnitude},
                                       order);
  for (int64_t token = 0; token < num_tokens; ++token) {
    const int32_t position = positions[static_cast<size_t>(token)];
    const bool is_padding = slots[static_cast<size_t>(token)] < 0;
    for (int64_t col = 0; col < q.cols; ++col) {
      const int64_t dim = col % head_dim;
      const bf16 before = q_before.view()(token, col);
      if (dim < shape.nope || is_padding) {
        CHECK(q.view()(token, col) == before);
        continue;
      }
      const int64_t even_col = col - (dim - shape.nope) % 2;
      double even = q_before.view()(token, even_col).to_float();
      double odd = q_before.view()(token, even_col + 1).to_float();
      const double scale = 2 * (std::abs(even) + std::abs(odd));
      rotate(even, odd, position, frequencies[static_cast<size_t>((dim - shape.nope) / 2)],
             magnitude);
      check_close(q.view()(token, col), col == even_col ? even : odd, scale);
    }
    if (is_padding) continue;
    const bf16* slot = cache.data() + slots[static_cast<size_t>(token)] * kv_dim;
    double squares = 0.0;
    for (int64_t dim = 0; dim < shape.rank; ++dim)
      squares += double{kv_a.view()(token, dim)} * kv_a.view()(token, dim);
    const double factor = 1.0 / std::sqrt(squares / shape.rank + 1e-6);
    for (int64_t dim = 0; dim < shape.rank; ++dim) {
      const double expected =
          double{weight[static_cast<size_t>(dim)].to_float()} * kv_a.view()(token, dim) * factor;
      check_close(slot[dim], expected, std::abs(expected) * shape.rank);
    }
    for (int64_t pair = 0; pair < shape.rope / 2; ++pair) {
      double even = kv_a.view()(token, shape.rank + 2 * pair);
      double odd = kv_a.view()(token, shape.rank + 2 * pair + 1);
      const double scale = 2 * (std::abs(even) + std::abs(odd));
      rotate(even, odd, position, frequencies[static_cast<size_t>(pair)], magnitude);
      check_close(slot[shape.rank + 2 * pair], even, scale);
      check_close(slot[shape.rank + 2 * pair + 1], odd, scale);
    }
  }
  CHECK(q.padding_is_untouched());
  int64_t num_written = 0;
  for (const bf16 value : cache) num_written += !std::isnan(value.to_float());
  CHECK(num_written == 3 * kv_dim);
}

}  // namespace
}  // namespace tandem::gpu::testing
