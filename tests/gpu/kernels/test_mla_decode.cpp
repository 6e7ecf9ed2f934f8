#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>

#include "gpu/cuda/kernels/mla_decode-inl.h"
#include "tests/gpu/kernels/kernel_test_support.h"

namespace tandem::gpu::testing {
namespace {

using cuda::MlaDecodeParams;
using cuda::MlaScheduleItem;

struct Shape {
  int32_t num_heads, rank, rope;
  [[nodiscard]] int32_t kv_dim() const { return rank + rope; }
};

// A batch over scattered pages. Slots behind the last token and pages of nobody are NaN, page ids
// behind the last page absurd.
struct Attention {
  Attention(const Shape& shape_in, const std::vector<MlaScheduleItem>& items_in, uint32_t seed)
      : shape(shape_in),
        items(items_in),
        num_tokens(0),
        q_latent(1, 1),
        q_rope(1, 1),
        cache(1),
        out(1, 1) {
    Values values(seed);
    int32_t num_pages = 0;
    for (const MlaScheduleItem& item : items) {
      num_tokens += item.num_tokens;
      const int32_t item_pages = (item.context_size_tokens + item.num_tokens + 63) / 64;
      num_pages += item_pages;
      max_pages = std::max(max_pages, item_pages);
      for (int32_t idx = 0; idx < item.num_tokens; ++idx)
        positions.push_back(item.context_size_tokens + idx);
    }
    ++max_pages;
    q_latent = aligned_matrix<bf16>(values, num_tokens, shape.num_heads * shape.rank, 0.3f);
    q_rope = aligned_matrix<bf16>(values, num_tokens, shape.num_heads * (shape.rope + 8), 0.3f);
    cache = AlignedBuffer<bf16>(int64_t{num_pages + 1} * 64 * shape.kv_dim());
    out = AlignedMatrix<bf16>(num_tokens, shape.num_heads * shape.rank);
    page_table.assign(items.size() * static_cast<size_t>(max_pages), 0x7fffff00);
    int32_t next_page = num_pages;  // backwards, so that neighbours are not neighbours
    for (size_t item_idx = 0; item_idx < items.size(); ++item_idx) {
      const int32_t num_keys = items[item_idx].context_size_tokens + items[item_idx].num_tokens;
      for (int32_t key = 0; key < num_keys; ++key) {
        if (key % 64 == 0) page_of(item_idx, key / 64) = next_page--;
        for (int32_t dim = 0; dim < shape.kv_dim(); ++dim)
          key_row(item_idx, key)[dim] = bf16(values.next());
      }
    }
  }
  int32_t& page_of(size_t item_idx, int32_t page_idx) {
    return page_table[item_idx * static_cast<size_t>(max_pages) + static_cast<size_t>(page_idx)];
  }
  bf16* key_row(size_t item_idx, int32_t key) {
    return cache.data() + (int64_t{page_of(item_idx, key / 64)} * 64 + key % 64) * shape.kv_dim();
  }

  void run(simt::ThreadOrder order, int64_t max_slots = 1 << 20) {
    const int32_t rows_a_tile = cuda::mla_rows_a_tile(shape.num_heads);
    cuda::MlaSchedule schedule;
    cuda::build_mla_schedule(items, shape.num_heads, rows_a_tile, max_slots, schedule);
    num_slots = schedule.num_slots;
    std::vector<float> partial_out(static_cast<size_t>(num_slots * rows_a_tile * shape.rank), kNan);
    std::vector<float> partial_lse(static_cast<size_t>(num_slots * rows_a_tile), kNan);
    const auto num_work = static_cast<int32_t>(schedule.work.size());
    const MlaDecodeParams params{
        .q_latent = q_latent.view(),
        .q_rope = q_rope.view(),
        .q_rope_head_stride = shape.rope + 8,
        .cache = cache.data(),
        .page_table = {page_table.data(), static_cast<int64_t>(items.size()), max_pages},
        .positions = positions.data(),
        .num_attention_heads = shape.num_heads,
        .kv_lora_rank = shape.rank,
        .qk_rope_head_dim = shape.rope,
        .softmax_scale = scale,
        .work = schedule.work.data(),
        .num_work = &num_work,
        .splits = schedule.tokens.data(),
        .partial_out = partial_out.data(),
        .partial_lse = partial_lse.data(),
        .num_blocks = 3,
        .out = out.view()};
    const bool narrow = shape.rank <= 64;
    if (rows_a_tile == 64) {
      narrow ? simt::emulate<cuda::MlaDecode<4, 1>>(params, order)
             : simt::emulate<cuda::MlaDecode<4, 8>>(params, order);
    } else {
      narrow ? simt::emulate<cuda::MlaDecode<1, 1>>(params, order)
             : simt::emulate<cuda::MlaDecode<1, 8>>(params, order);
    }
    simt::emulate<cuda::MlaCombine>(params, order);
  }

  // Equation 9 in double for one token and head.
  void check(size_t item_idx, int32_t token, int32_t head) {
    const bf16* latent = &q_latent.view()(token, int64_t{head} * shape.rank);
    const bf16* rope = &q_rope.view()(token, int64_t{head} * (shape.rope + 8));
    const int32_t num_keys = positions[static_cast<size_t>(token)] + 1;
    std::vector<double> score(static_cast<size_t>(num_keys), 0.0);
    double largest = -1e300;
    double score_size = 0.0;
    for (int32_t key = 0; key < num_keys; ++key) {
      const bf16* row = key_row(item_idx, key);
      double size = 0.0;
      for (int32_t dim = 0; dim < shape.kv_dim(); ++dim) {
        const bf16 query = dim < shape.rank ? latent[dim] : rope[dim - shape.rank];
        const double term = double{scale} * query.to_float() * row[dim].to_float();
        score[static_cast<size_t>(key)] += term;
        size += std::abs(term);
      }
      score_size = std::max(score_size, size);
      largest = std::max(largest, score[static_cast<size_t>(key)]);
    }
    std::vector<double> sum(static_cast<size_t>(shape.rank), 0.0);
    std::vector<double> size(static_cast<size_t>(shape.rank), 0.0);
    double total = 0.0;
    for (int32_t key = 0; key < num_keys; ++key) {
      const double weight = std::exp(score[static_cast<size_t>(key)] - largest);
      total += weight;
      for (size_t dim = 0; dim < sum.size(); ++dim) {
        sum[dim] += weight * key_row(item_idx, key)[dim].to_float();
        size[dim] += std::abs(weight * key_row(item_idx, key)[dim].to_float());
      }
    }
    // A weight: its score's sum, the scaling and exp2 in FP32 (an error of the exponent is a
    // relative one of the weight), then its rounding; numerator and sum of weights both.
    const double weight_error = kBf16UnitRoundoff + 2.0 * kUnitRoundoff *
                                                        static_cast<double>(shape.kv_dim() + 24) *
                                                        score_size;
    for (size_t dim = 0; dim < sum.size(); ++dim) {
      const double expected = sum[dim] / total;
      const double limit =
          (2 * weight_error + 2.0 * kUnitRoundoff * (num_keys + 64)) * size[dim] / total +
          kBf16UnitRoundoff * std::abs(expected);
      const float actual =
          out.view()(token, int64_t{head} * shape.rank + static_cast<int64_t>(dim)).to_float();
      INFO("token " << token << ", head " << head << ", dim " << dim);
      REQUIRE(std::abs(actual - expected) <= limit);
    }
  }

  void check_all() {
    int32_t token = 0;
    for (size_t item_idx = 0; item_idx < items.size(); ++item_idx) {
      for (int32_t idx = 0; idx < items[item_idx].num_tokens; ++idx, ++token) {
        for (int32_t head = 0; head < shape.num_heads; ++head) check(item_idx, token, head);
      }
    }
    CHECK(out.padding_is_untouched());
  }

  Shape shape;
  std::vector<MlaScheduleItem> items;
  int32_t num_tokens;
  int32_t max_pages = 0;
  int32_t num_slots = 0;
  float scale = 0.2f;
  std::vector<int32_t> positions;
  std::vector<int32_t> page_table;
  AlignedMatrix<bf16> q_latent;
  AlignedMatrix<bf16> q_rope;
  AlignedBuffer<bf16> cache;
  AlignedMatrix<bf16> out;
};

TEST_CASE("mla_decode equals the reference for every shape, context and mix of items",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Shape shape = GENERATE(Shape{4, 64, 16}, Shape{3, 48, 8}, Shape{1, 32, 16},
                               Shape{17, 32, 8}, Shape{2, 264, 64});
  Attention attention(shape, {{1, 0}, {3, 62}, {1, 63}, {2, 300}, {1, 31}, {20, 40}, {9, 0}}, 12);
  attention.run(order);
  CHECK(attention.num_slots > 0);
  attention.check_all();
}

TEST_CASE("mla_decode at the dimensions of K2", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Attention attention({64, 512, 64}, {{1, 290}, {1, 5}}, 13);
  attention.run(order);
  CHECK(attention.num_slots == 2);
  for (const int32_t head : {0, 15, 16, 63}) {
    attention.check(0, 0, head);
    attention.check(1, 1, head);
  }
}

TEST_CASE("mla_decode without slots for partial results gives the same within rounding",
          "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Attention attention({4, 64, 16}, {{1, 700}, {2, 300}}, 14);
  attention.run(order, 0);
  CHECK(attention.num_slots == 0);
  attention.check_all();
}

TEST_CASE("a token of mla_decode has the same bits in any batch", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  const Shape shape{4, 64, 16};
  Attention together(shape, {{1, 500}, {2, 300}, {30, 0}}, 15);
  together.run(order);
  Attention alone = together;
  alone.items = {together.items[0]};
  alone.num_tokens = 1;
  alone.out = AlignedMatrix<bf16>(1, shape.num_heads * shape.rank);
  alone.run(order);
  CHECK(same_bits(together.out.view().row(0), alone.out.view().row(0)));
}

TEST_CASE("mla_decode keeps to the largest score however large the scores are", "[cuda_kernels]") {
  const simt::ThreadOrder order = order_under_test();
  Attention attention({2, 64, 8}, {{1, 400}}, 16);
  attention.scale = 30.0f;  // scores of hundreds: softmax is nearly one-hot
  attention.run(order);
  attention.check_all();
}

TEST_CASE("shared memory of mla_decode fits what every card of sm_80 has at the widest shape",
          "[cuda_kernels]") {
  CHECK(cuda::mla_layout(576, 64).size_bytes <= 163 * 1024);
  CHECK(cuda::mla_layout(576, 16).size_bytes <= 99 * 1024);
  CHECK(cuda::mla_layout(320, 64).size_bytes <= 99 * 1024);
}

}  // namespace
}  // namespace tandem::gpu::testing
