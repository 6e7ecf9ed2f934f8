#include <catch2/catch_test_macros.hpp>
#include <cmath>

#include "gpu/cuda/kernels/mla_blocks-inl.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

TEST_CASE("unpack_latents takes keys out of their pages and gives k_rope to every head",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Values values(1);
  for (const int32_t rank : {8, 520, 1040}) {
    for (const int32_t rope : {8, 64}) {
      constexpr int32_t kHeads = 3;
      constexpr int32_t kRopeBegin = 16;
      const int32_t kv_dim = rank + rope;
      const int32_t head_dim = kRopeBegin + rope + 8;
      AlignedBuffer<bf16> cache(int64_t{5} * 64 * kv_dim);
      for (bf16& value : cache.values()) value = bf16(values.next());
      const std::vector<int32_t> page_ids{4, 0, 2};
      constexpr int32_t kBegin = 61;
      constexpr int32_t kKeys = 70;
      AlignedMatrix<bf16> latents(kKeys, rank);
      AlignedMatrix<bf16> keys(kKeys, kHeads * head_dim);
      simt::emulate<cuda::UnpackLatents>({.cache = cache.data(),
                                          .page_ids = page_ids.data(),
                                          .kv_begin = kBegin,
                                          .latents = latents.view(),
                                          .keys = keys.view(),
                                          .num_attention_heads = kHeads,
                                          .key_head_dim = head_dim,
                                          .rope_begin = kRopeBegin,
                                          .qk_rope_head_dim = rope},
                                         order);
      int64_t num_wrong = 0;
      for (int32_t key = 0; key < kKeys; ++key) {
        const int32_t position = kBegin + key;
        const bf16* slot =
            &cache[(int64_t{page_ids[static_cast<size_t>(position / 64)]} * 64 + position % 64) *
                   kv_dim];
        for (int32_t col = 0; col < rank; ++col) {
          num_wrong += latents.view()(key, col).bits != slot[col].bits;
        }
        for (int32_t col = 0; col < kHeads * head_dim; ++col) {
          const int32_t in_head = col % head_dim;
          const bool is_rope = in_head >= kRopeBegin && in_head < kRopeBegin + rope;
          const uint16_t expected = is_rope ? slot[rank + in_head - kRopeBegin].bits : 0xffff;
          num_wrong += keys.view()(key, col).bits != expected;
        }
      }
      CHECK(num_wrong == 0);
      CHECK(latents.padding_is_untouched());
      CHECK(keys.padding_is_untouched());
    }
  }
}

// Three blocks of one softmax, whose sums of exponentials lie far apart in some rows.
TEST_CASE("merged blocks of attention are the attention over all keys", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Values values(2);
  constexpr int32_t kTokens = 5;
  constexpr int32_t kHeads = 3;
  constexpr int64_t kRows = kTokens * kHeads;
  for (const int64_t width : {1, 128, 200}) {
    TestMatrix<float> sum(kRows, width);
    std::vector<float> sum_lse(kRows, kNan);
    TestMatrix<bf16> out(kTokens, kHeads * width);
    std::vector<double> total(kRows);
    std::vector<double> expected(static_cast<size_t>(kRows * width));
    std::vector<double> absolute(static_cast<size_t>(kRows * width));
    for (int block = 0; block < 3; ++block) {
      const TestMatrix<bf16> block_out = values.matrix<bf16>(kRows, width);
      const std::vector<float> block_lse = values.vector<float>(kRows, 12.0f);
      for (int64_t row = 0; row < kRows; ++row) {
        const double weight = std::exp2(double{block_lse[static_cast<size_t>(row)]});
        total[static_cast<size_t>(row)] += weight;
        for (int64_t col = 0; col < width; ++col) {
          const double value = block_out.view()(row, col).to_float();
          expected[static_cast<size_t>(row * width + col)] += weight * value;
          absolute[static_cast<size_t>(row * width + col)] += weight * std::abs(value);
        }
      }
      const bool is_last = block == 2;
      simt::emulate<cuda::MergeAttention>({.block_out = block_out.view(),
                                           .block_lse = block_lse.data(),
                                           .sum = sum.view(),
                                           .sum_lse = sum_lse.data(),
                                           .is_first = block == 0,
                                           .out = is_last ? out.view() : MatrixView<bf16>(),
                                           .num_attention_heads = kHeads},
                                          order);
    }
    CHECK(sum.padding_is_untouched());
    CHECK(out.padding_is_untouched());
    for (int64_t row = 0; row < kRows; ++row) {
      const double weight = total[static_cast<size_t>(row)];
      for (int64_t col = 0; col < width; ++col) {
        const auto idx = static_cast<size_t>(row * width + col);
        const double value = expected[idx] / weight;
        // The LSE has 24 bits of a number up to 40, which is an exponent: 40 ln 2 roundings of the
        // weights, twice; some roundings besides. Then half a BF16 step.
        const double limit = 80 * kUnitRoundoff * absolute[idx] / weight;
        REQUIRE(std::abs(sum.view()(row, col) - value) <= limit);
        const double rounded = out.view()(row / kHeads, row % kHeads * width + col).to_float();
        REQUIRE(std::abs(rounded - value) <= limit + kBf16UnitRoundoff * std::abs(value));
      }
    }
  }
}

}  // namespace
}  // namespace tandem::gpu::testing
