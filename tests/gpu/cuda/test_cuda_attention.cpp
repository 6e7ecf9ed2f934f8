#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <cmath>
#include <random>

#include "tests/gpu/cuda/ops_test_support.h"

namespace tandem::gpu::cuda::testing {
namespace {

MlaShape k2_shape(int32_t num_attention_heads) {
  return {.num_attention_heads = num_attention_heads,
          .qk_nope_head_dim = 128,
          .qk_rope_head_dim = 64,
          .v_head_dim = 128,
          .kv_lora_rank = 512,
          .softmax_scale = 0.1446796f};
}
const MlaShape kSmallShape{.num_attention_heads = 3,
                           .qk_nope_head_dim = 24,
                           .qk_rope_head_dim = 8,
                           .v_head_dim = 40,
                           .kv_lora_rank = 48,
                           .softmax_scale = 0.19f};

struct SequenceSize {
  int32_t num_tokens;
  int32_t context;
};

// A batch over one cache whose pages are shuffled; slots that no token has written are NaN.
struct CacheAndBatch {
  CacheAndBatch(const MlaShape& shape_in, const std::vector<SequenceSize>& sizes, uint32_t seed)
      : shape(shape_in) {
    for (const SequenceSize& size : sizes) {
      num_pages += (size.context + size.num_tokens + kPageSizeTokens - 1) / kPageSizeTokens;
    }
    ++num_pages;  // one that nobody has
    std::vector<int32_t> order(static_cast<size_t>(num_pages));
    for (int32_t page = 0; page < num_pages; ++page) order[static_cast<size_t>(page)] = page;
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    cache.assign(static_cast<size_t>(num_pages) * kPageSizeTokens * shape.kv_dim(), bf16(kNan));
    Values values(seed);
    page_ids.resize(sizes.size());
    auto next_page = order.begin();
    for (size_t idx = 0; idx < sizes.size(); ++idx) {
      const int32_t kv_len = sizes[idx].context + sizes[idx].num_tokens;
      const auto pages = (kv_len + kPageSizeTokens - 1) / kPageSizeTokens;
      page_ids[idx].assign(next_page, next_page + pages);
      next_page += pages;
      items.push_back({.token_begin = num_tokens,
                       .num_tokens = sizes[idx].num_tokens,
                       .context_size_tokens = sizes[idx].context,
                       .page_ids = page_ids[idx]});
      num_tokens += sizes[idx].num_tokens;
      for (int32_t position = 0; position < kv_len; ++position) {
        for (int32_t dim = 0; dim < shape.kv_dim(); ++dim) {
          slot(idx, position)[dim] = bf16(values.next());
        }
      }
    }
    token_ids.assign(static_cast<size_t>(num_tokens), 0);
  }
  bf16* slot(size_t sequence, int32_t position) {
    const int32_t page = page_ids[sequence][static_cast<size_t>(position / kPageSizeTokens)];
    return cache.data() +
           (int64_t{page} * kPageSizeTokens + position % kPageSizeTokens) * shape.kv_dim();
  }
  [[nodiscard]] Batch batch() const {
    return {.token_ids = token_ids, .items = items, .logit_token_idx = {}};
  }

  MlaShape shape;
  int32_t num_pages = 0;
  int32_t num_tokens = 0;
  std::vector<bf16> cache;
  std::vector<std::vector<int32_t>> page_ids;
  std::vector<BatchItem> items;
  std::vector<int32_t> token_ids;
};

struct Card {
  Card(const MlaShape& shape, const CacheAndBatch& data, int32_t max_context)
      : ops(make_cuda_ops(0)), cache(*ops, data.cache) {
    ops->reserve({.max_batch_tokens = std::max(data.num_tokens, 8),
                  .max_logit_rows = std::max(static_cast<int32_t>(data.items.size()), 8),
                  .max_context_tokens = max_context},
                 shape);
    // Allocated memory is zero; the cache was uploaded whole.
    layer = {.data = const_cast<bf16*>(cache.view().data()), .num_pages = data.num_pages};
  }
  std::unique_ptr<Ops> ops;
  CardVector<bf16> cache;
  KvCacheLayer layer;
};

int32_t max_context_of(const CacheAndBatch& data) {
  int32_t result = 64;
  for (const BatchItem& item : data.items) {
    result = std::max(result, item.context_size_tokens + item.num_tokens);
  }
  return result;
}

// What rounds to BF16 on a card and not on the host: latent queries, weights of the softmax,
// partial sums of latents, their sum, and the result (on both). Each changes a row by 2^-9 of its
// length at most, in the mean by a third of that; the scores, of a standard deviation of 3 at most
// here, are moved by as much as the queries. Together less than 8 * 2^-9 of a row's length.
constexpr double kRowLimit = 8 * kBf16UnitRoundoff / 2;

double row_error(std::span<const bf16> actual, std::span<const bf16> expected) {
  double error = 0.0;
  double length = 0.0;
  for (size_t idx = 0; idx < expected.size(); ++idx) {
    const double difference = double{actual[idx].to_float()} - expected[idx].to_float();
    error += difference * difference;
    length += double{expected[idx].to_float()} * expected[idx].to_float();
  }
  return std::sqrt(error / length);
}

void check_against_host(const MlaShape& shape,
                        const std::vector<SequenceSize>& sizes,
                        MlaForm form,
                        uint32_t seed) {
  CacheAndBatch data(shape, sizes, seed);
  Values values(seed + 1);
  const int64_t q_cols = int64_t{shape.num_attention_heads} * shape.qk_head_dim();
  const int64_t out_cols = int64_t{shape.num_attention_heads} * shape.v_head_dim;
  // Scores of a standard deviation of 2 to 3.
  const auto q = values.matrix<bf16>(data.num_tokens, q_cols, 1.5f);
  const auto kv_b_matrix = values.matrix<bf16>(
      int64_t{shape.num_attention_heads} * (shape.qk_nope_head_dim + shape.v_head_dim),
      shape.kv_lora_rank, 1.0f / std::sqrt(static_cast<float>(shape.kv_lora_rank)));

  HostDevice host(2, *host::supported_kernels().back());
  const auto host_kv_b = host.ops->load_kv_b(kv_b_matrix.view(), shape);
  host.ops->reserve({}, shape);
  gpu::testing::TestMatrix<bf16> expected(data.num_tokens, out_cols);
  host.ops->begin_step(data.batch(), MlaForm::kAbsorbed);
  host.ops->mla_attention(shape, q.view(), *host_kv_b, {data.cache.data(), data.num_pages},
                          expected.view());

  Card card(shape, data, max_context_of(data));
  const auto kv_b = card.ops->load_kv_b(kv_b_matrix.view(), shape);
  const CardMatrix<bf16> card_q(*card.ops, q.view());
  CardMatrix<bf16> out(*card.ops, data.num_tokens, out_cols);
  card.ops->begin_step(data.batch(), form);
  card.ops->mla_attention(shape, card_q.view(), *kv_b, card.layer, out.view());
  const MatrixView<const bf16> actual = out.fetch();
  CHECK(out.padding_is_untouched());
  double worst = 0.0;
  for (int64_t row = 0; row < data.num_tokens; ++row) {
    for (int32_t head = 0; head < shape.num_attention_heads; ++head) {
      const int64_t col = int64_t{head} * shape.v_head_dim;
      const double error =
          row_error(actual.columns(col, shape.v_head_dim).row(row),
                    std::as_const(expected).view().columns(col, shape.v_head_dim).row(row));
      INFO("token " << row << ", head " << head << ", form " << static_cast<int>(form));
      REQUIRE(error <= kRowLimit);  // NaN is no less
      worst = std::max(worst, error);
    }
  }
  UNSCOPED_INFO("largest error of a row " << worst);
}

}  // namespace

TEST_CASE("on a card decodes attend as the host's do, whatever their contexts", "[gpu][wide]") {
  require_card();
  for (const int32_t heads : {1, 16, 64}) {
    INFO("heads " << heads);
    for (const int32_t context : {0, 1, 62, 63, 64, 65, 127, 128, 500, 4095}) {
      INFO("context " << context);
      check_against_host(k2_shape(heads), {{1, context}}, MlaForm::kAuto, 1);
    }
    check_against_host(k2_shape(heads), {{1, 3}, {1, 700}, {1, 64}, {1, 0}, {1, 2047}},
                       MlaForm::kAuto, 2);
  }
}

TEST_CASE("on a card long contexts are split over all multiprocessors and merged", "[gpu][wide]") {
  require_card();
  check_against_host(k2_shape(64), {{1, 30'000}}, MlaForm::kAuto, 3);
  check_against_host(k2_shape(64), {{1, 20'000}, {1, 10}, {2, 9'000}, {1, 63}}, MlaForm::kAuto, 4);
}

TEST_CASE("on a card the longest context attends as the host's, and 64 sequences at once",
          "[gpu][wide]") {
  require_card();
  check_against_host(k2_shape(16), {{1, 262'143}}, MlaForm::kAuto, 15);
  check_against_host(k2_shape(16), {{2, 262'142}, {1, 100}}, MlaForm::kAuto, 16);
  std::vector<SequenceSize> sequences;
  for (int32_t idx = 0; idx < 64; ++idx) {
    sequences.push_back({.num_tokens = 1, .context = idx * 67 % 900});
  }
  check_against_host(k2_shape(64), sequences, MlaForm::kAuto, 17);
}

TEST_CASE("on a card a step has as many sequences as it has rows of logits", "[gpu]") {
  require_card();
  for (const MlaShape& shape : {kSmallShape, k2_shape(1)}) {
    check_against_host(shape, std::vector<SequenceSize>(300, {.num_tokens = 1, .context = 2}),
                       MlaForm::kAuto, 18);
  }
}

TEST_CASE("on a card several tokens of a sequence see what stands before each", "[gpu][wide]") {
  require_card();
  for (const int32_t heads : {2, 16, 64}) {
    INFO("heads " << heads);
    check_against_host(k2_shape(heads), {{2, 0}, {3, 62}, {7, 200}, {65, 3}}, MlaForm::kAbsorbed,
                       5);
    check_against_host(k2_shape(heads), {{40, 1'000}, {1, 5'000}}, MlaForm::kAbsorbed, 6);
  }
}

TEST_CASE("on a card expanded prefills attend as the host's, behind any prefix", "[gpu][wide]") {
  require_card();
  for (const int32_t heads : {2, 64}) {
    INFO("heads " << heads);
    check_against_host(k2_shape(heads), {{1, 0}}, MlaForm::kExpanded, 7);
    check_against_host(k2_shape(heads), {{129, 0}}, MlaForm::kExpanded, 8);
    check_against_host(k2_shape(heads), {{100, 333}}, MlaForm::kExpanded, 9);
    // Several blocks of expanded keys, merged.
    check_against_host(k2_shape(heads), {{37, 8'192}, {5, 17'000}}, MlaForm::kExpanded, 10);
  }
}

TEST_CASE("on a card a batch of decodes and a prefill goes both ways at once", "[gpu][wide]") {
  require_card();
  check_against_host(k2_shape(64), {{1, 300}, {150, 70}, {1, 4'000}, {3, 10}}, MlaForm::kAuto, 11);
}

TEST_CASE("on a card models of other widths attend too", "[gpu]") {
  require_card();
  check_against_host(kSmallShape, {{1, 0}, {1, 63}, {1, 1'500}, {9, 64}}, MlaForm::kAuto, 12);
  check_against_host(kSmallShape, {{150, 20}, {1, 3}}, MlaForm::kExpanded, 13);
  MlaShape wide = k2_shape(3);  // 3 heads do not divide a tile
  check_against_host(wide, {{1, 0}, {5, 700}}, MlaForm::kAuto, 14);
}

// A key far longer than all others takes all the weight of a query along it: the result says
// whether that one key was seen. Keys at the borders of pages and splits, and the last that a token
// may see; the one behind it must not be seen.
TEST_CASE("on a card every token sees exactly the keys up to its own", "[gpu][wide]") {
  require_card();
  const MlaShape shape = k2_shape(16);
  constexpr int32_t kContext = 2'000;
  constexpr int32_t kTokens = 3;
  for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
    for (const int32_t needle : {0, 63, 64, 511, 512, 1'023, 1'999, 2'000, 2'001, 2'002}) {
      CacheAndBatch data(shape, {{kTokens, kContext}}, 20);
      // Only the rope part is large: it scores, the latent is the value.
      bf16* key = data.slot(0, needle);
      for (int32_t dim = 0; dim < shape.qk_rope_head_dim; ++dim) {
        key[shape.kv_lora_rank + dim] = bf16(40.0f);
      }
      Values values(21);
      const int64_t q_cols = int64_t{shape.num_attention_heads} * shape.qk_head_dim();
      auto q = values.matrix<bf16>(kTokens, q_cols, 0.1f);
      for (int64_t token = 0; token < kTokens; ++token) {
        for (int32_t head = 0; head < shape.num_attention_heads; ++head) {
          for (int32_t dim = 0; dim < shape.qk_rope_head_dim; ++dim) {
            q.view()(token, int64_t{head} * shape.qk_head_dim() + shape.qk_nope_head_dim + dim) =
                bf16(1.0f);
          }
        }
      }
      const auto kv_b_matrix =
          values.matrix<bf16>(int64_t{shape.num_attention_heads} * 256, 512, 0.044f);
      Card card(shape, data, kContext + kTokens);
      const auto kv_b = card.ops->load_kv_b(kv_b_matrix.view(), shape);
      const CardMatrix<bf16> card_q(*card.ops, q.view());
      CardMatrix<bf16> out(*card.ops, kTokens, int64_t{shape.num_attention_heads} * 128);
      card.ops->begin_step(data.batch(), form);
      card.ops->mla_attention(shape, card_q.view(), *kv_b, card.layer, out.view());
      const MatrixView<const bf16> actual = out.fetch();
      // W_UV c of the needle, of head 0.
      std::vector<bf16> value(128);
      for (int64_t dim = 0; dim < 128; ++dim) {
        double sum = 0.0;
        for (int64_t rank = 0; rank < 512; ++rank) {
          sum += double{kv_b_matrix.view()(128 + dim, rank).to_float()} * key[rank].to_float();
        }
        value[static_cast<size_t>(dim)] = bf16(static_cast<float>(sum));
      }
      for (int64_t token = 0; token < kTokens; ++token) {
        const double error = row_error(actual.columns(0, 128).row(token), value);
        INFO("needle " << needle << ", token " << token << ", form " << static_cast<int>(form)
                       << ", error " << error);
        if (needle <= kContext + token) {
          REQUIRE(error <= kRowLimit);
        } else {
          REQUIRE(error >= 0.5);
        }
      }
    }
  }
}

TEST_CASE("on a card rope and the append to the cache are the host's up to a tie", "[gpu]") {
  require_card();
  for (const MlaShape& shape : {k2_shape(64), kSmallShape}) {
    Values values(41);
    const int32_t num_pairs = shape.qk_rope_head_dim / 2;
    std::vector<float> frequencies;
    for (int32_t pair = 0; pair < num_pairs; ++pair) {
      frequencies.push_back(
          std::pow(50'000.0f, -static_cast<float>(pair) / static_cast<float>(num_pairs)));
    }
    const std::vector<bf16> layernorm = values.vector<bf16>(shape.kv_lora_rank);
    CacheAndBatch data(shape, {{5, 0}, {70, 4'090}, {1, 63}}, 42);
    std::fill(data.cache.begin(), data.cache.end(), bf16(kNan));
    const int64_t q_cols = int64_t{shape.num_attention_heads} * shape.qk_head_dim();
    const auto q = values.matrix<bf16>(data.num_tokens, q_cols);
    const auto kv_a = values.matrix<float>(data.num_tokens, shape.kv_dim());

    Card card(shape, data, 4'160);
    CardMatrix<bf16> card_q(*card.ops, q.view());
    const CardMatrix<float> card_kv_a(*card.ops, kv_a.view());
    const CardVector<bf16> card_layernorm(*card.ops, layernorm);
    const CardVector<float> card_frequencies(*card.ops, frequencies);
    card.ops->begin_step(data.batch(), MlaForm::kAuto);
    card.ops->rope_and_append_kv(shape,
                                 {.kv_a_layernorm = card_layernorm.view(),
                                  .frequencies = card_frequencies.view(),
                                  .magnitude = 1.25f},
                                 card_q.view(), card_kv_a.view(), card.layer);
    const MatrixView<const bf16> actual_q = card_q.fetch();
    CHECK(card_q.padding_is_untouched());
    const auto fetched = card.ops->allocate_host(card.cache.view().size_bytes());
    card.ops->copy_to_host(std::as_bytes(card.cache.view()),
                           {fetched->data(), fetched->size_bytes()});
    card.ops->synchronize();
    const std::span<const bf16> actual_cache(reinterpret_cast<const bf16*>(fetched->data()),
                                             data.cache.size());

    HostDevice host(1, *host::supported_kernels().back());
    auto expected_q = q;
    host.ops->begin_step(data.batch(), MlaForm::kAuto);
    host.ops->rope_and_append_kv(
        shape, {.kv_a_layernorm = layernorm, .frequencies = frequencies, .magnitude = 1.25f},
        expected_q.view(), kv_a.view(), {data.cache.data(), data.num_pages});
    // One step of BF16, and sines of both sides that differ by a few units of FP32 of a pair's
    // length (at most 8 here, times the magnitude).
    const auto is_near = [](bf16 actual, bf16 expected) {
      const double value = expected.to_float();
      if (std::isnan(value)) return std::isnan(actual.to_float());
      return std::abs(actual.to_float() - value) <=
             2.0 * kBf16UnitRoundoff * std::abs(value) + 16 * kUnitRoundoff * 10.0;
    };
    int64_t num_wrong = 0;
    for (int64_t row = 0; row < data.num_tokens; ++row) {
      for (int64_t col = 0; col < q_cols; ++col) {
        num_wrong += !is_near(actual_q(row, col), expected_q.view()(row, col));
      }
    }
    for (size_t idx = 0; idx < actual_cache.size(); ++idx) {
      num_wrong += !is_near(actual_cache[idx], data.cache[idx]);
    }
    CHECK(num_wrong == 0);
  }
}

// A decode step is recorded at its second run and replayed from the third on: with other contexts,
// other pages and fewer sequences the replay must give what a fresh device gives.
TEST_CASE("on a card a replayed decode step follows its batch", "[gpu]") {
  require_card();
  const MlaShape shape = k2_shape(16);
  Values values(51);
  const auto kv_b_matrix = values.matrix<bf16>(16 * 256, 512, 0.044f);
  CacheAndBatch data(shape, {{1, 100}, {1, 1'000}, {1, 3'000}}, 52);
  const auto q = values.matrix<bf16>(4, 16 * 192);
  const std::vector<int32_t> logit_token_idx{0, 1, 2};
  const auto run = [&](Card& card, const KvBWeight& kv_b, int32_t num_sequences, int32_t shorter,
                       CardMatrix<bf16>& out, const CardMatrix<bf16>& card_q) {
    std::vector<BatchItem> items(data.items.begin(), data.items.begin() + num_sequences);
    for (BatchItem& item : items) item.context_size_tokens -= shorter;
    const auto num = static_cast<size_t>(num_sequences);
    const Batch batch{.token_ids = std::span(data.token_ids).first(num),
                      .items = items,
                      .logit_token_idx = std::span(logit_token_idx).first(num)};
    const int64_t num_rows = card.ops->begin_step(batch, MlaForm::kAuto);
    REQUIRE(num_rows == 4);  // a bucket of 4 holds 3 and, here, 3 alone
    card.ops->mla_attention(shape, card_q.view().first_rows(num_rows), kv_b, card.layer,
                            out.view().first_rows(num_rows));
    card.ops->synchronize();
  };
  Card card(shape, data, 4'096);
  const auto kv_b = card.ops->load_kv_b(kv_b_matrix.view(), shape);
  const CardMatrix<bf16> card_q(*card.ops, q.view());
  CardMatrix<bf16> out(*card.ops, 4, 16 * 128);
  for (int32_t repeat = 0; repeat < 6; ++repeat) {
    run(card, *kv_b, 3, repeat * 13, out, card_q);
    const MatrixView<const bf16> actual = out.fetch();

    Card fresh(shape, data, 4'096);
    const auto fresh_kv_b = fresh.ops->load_kv_b(kv_b_matrix.view(), shape);
    const CardMatrix<bf16> fresh_q(*fresh.ops, q.view());
    CardMatrix<bf16> expected_out(*fresh.ops, 4, 16 * 128);
    run(fresh, *fresh_kv_b, 3, repeat * 13, expected_out, fresh_q);
    const MatrixView<const bf16> expected = expected_out.fetch();
    for (int64_t row = 0; row < 3; ++row) {
      INFO("repeat " << repeat << ", row " << row);
      CHECK(same_bits(actual.row(row), expected.row(row)));
    }
  }
}

}  // namespace tandem::gpu::cuda::testing
