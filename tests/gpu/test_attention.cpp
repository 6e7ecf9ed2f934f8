#include <algorithm>
#include <catch2/catch_test_macros.hpp>

#include "tests/gpu/host_test_support.h"

namespace tandem::gpu::testing {
namespace {

// A paged cache whose page ids are shuffled; what no token has written is NaN.
struct PagedCache {
  PagedCache(const MlaShape& shape, int32_t num_tokens, uint32_t seed) : kv_dim(shape.kv_dim()) {
    const int32_t num_used = (num_tokens + kPageSizeTokens - 1) / kPageSizeTokens;
    num_pages = num_used + 2;
    values.assign(static_cast<size_t>(num_pages) * kPageSizeTokens * kv_dim, bf16(kNan));
    std::vector<int32_t> order(static_cast<size_t>(num_pages));
    for (int32_t page = 0; page < num_pages; ++page) order[static_cast<size_t>(page)] = page;
    std::shuffle(order.begin(), order.end(), std::mt19937(seed));
    page_ids.assign(order.begin(), order.begin() + num_used);
  }
  bf16* slot(int32_t position) {
    const int32_t page = page_ids[static_cast<size_t>(position / kPageSizeTokens)];
    return values.data() + (int64_t{page} * kPageSizeTokens + position % kPageSizeTokens) * kv_dim;
  }
  KvCacheLayer layer() { return {values.data(), num_pages}; }
  // Positions from `position` on as if never written.
  void forget_from(int32_t position) {
    const auto num_slots = static_cast<int32_t>(page_ids.size()) * kPageSizeTokens;
    for (; position < num_slots; ++position) std::fill_n(slot(position), kv_dim, bf16(kNan));
  }

  int32_t kv_dim;
  int32_t num_pages = 0;
  std::vector<bf16> values;
  std::vector<int32_t> page_ids;
};

// A sequence with its queries and its cache, filled.
struct Sequence {
  Sequence(const MlaShape& shape, int32_t num_tokens_in, uint32_t seed)
      : num_tokens(num_tokens_in),
        cache(shape, num_tokens_in, seed),
        q(num_tokens_in, int64_t{shape.num_attention_heads} * shape.qk_head_dim()) {
    Values values(seed);
    values.fill(q.view());
    for (int32_t position = 0; position < num_tokens; ++position) {
      for (int32_t dim = 0; dim < shape.kv_dim(); ++dim) {
        cache.slot(position)[dim] = bf16(values.next());
      }
    }
  }
  int32_t num_tokens;
  PagedCache cache;
  TestMatrix<bf16> q;
};

TestMatrix<bf16> random_kv_b(const MlaShape& shape, uint32_t seed) {
  const auto rank = static_cast<float>(shape.kv_lora_rank);
  return Values(seed).matrix<bf16>(
      int64_t{shape.num_attention_heads} * (shape.qk_nope_head_dim + shape.v_head_dim),
      shape.kv_lora_rank, 1.0f / std::sqrt(rank));
}

// Equation 8 in double for one token and head, with what its tolerance needs.
struct ExpectedOut {
  std::vector<double> value;      // [v_head_dim]
  std::vector<double> absolute;   // sum of p |W_UV| |c|
  std::vector<double> value_sum;  // sum of p |v|
  double score_absolute = 0.0;    // largest sigma * sum |q| |W_UK| |c| + |q_rope| |k_rope|
  double key_absolute = 0.0;      // largest sigma * sum |q_nope| |k_nope|
};

ExpectedOut expected_attention(const MlaShape& shape,
                               Sequence& sequence,
                               const TestMatrix<bf16>& kv_b,
                               int32_t position,
                               int32_t head) {
  const int32_t nope = shape.qk_nope_head_dim;
  const auto v_dim = static_cast<size_t>(shape.v_head_dim);
  const int64_t first_row = int64_t{head} * (nope + shape.v_head_dim);
  const auto q =
      sequence.q.view().columns(int64_t{head} * shape.qk_head_dim(), shape.qk_head_dim());
  std::vector<double> scores;
  std::vector<std::vector<double>> v;
  std::vector<std::vector<double>> v_absolute;
  ExpectedOut result;
  for (int32_t key = 0; key <= position; ++key) {
    const bf16* c = sequence.cache.slot(key);
    double score = 0.0;
    double score_absolute = 0.0;
    double key_absolute = 0.0;
    const auto row_times_c = [&](int64_t row, double& absolute) {
      double sum = 0.0;
      for (int32_t rank = 0; rank < shape.kv_lora_rank; ++rank) {
        const double product =
            double{kv_b.view()(row, rank).to_float()} * double{c[rank].to_float()};
        sum += product;
        absolute += std::abs(product);
      }
      return sum;
    };
    for (int32_t dim = 0; dim < nope; ++dim) {
      double absolute = 0.0;
      const double k = row_times_c(first_row + dim, absolute);
      const double q_value = q(position, dim).to_float();
      score += q_value * k;
      score_absolute += std::abs(q_value) * absolute;
      key_absolute += std::abs(q_value * k);
    }
    for (int32_t dim = 0; dim < shape.qk_rope_head_dim; ++dim) {
      const double product = double{q(position, nope + dim).to_float()} *
                             double{c[shape.kv_lora_rank + dim].to_float()};
      score += product;
      score_absolute += std::abs(product);
    }
    const double sigma = shape.softmax_scale;
    scores.push_back(sigma * score);
    result.score_absolute = std::max(result.score_absolute, sigma * score_absolute);
    result.key_absolute = std::max(result.key_absolute, sigma * key_absolute);
    v.emplace_back(v_dim);
    v_absolute.emplace_back(v_dim);
    for (size_t dim = 0; dim < v_dim; ++dim) {
      v.back()[dim] =
          row_times_c(first_row + nope + static_cast<int64_t>(dim), v_absolute.back()[dim]);
    }
  }
  const double largest = *std::max_element(scores.begin(), scores.end());
  double total = 0.0;
  for (const double score : scores) total += std::exp(score - largest);
  result.value.resize(v_dim);
  result.absolute.resize(v_dim);
  result.value_sum.resize(v_dim);
  for (size_t key = 0; key < scores.size(); ++key) {
    const double weight = std::exp(scores[key] - largest) / total;
    for (size_t dim = 0; dim < v_dim; ++dim) {
      result.value[dim] += weight * v[key][dim];
      result.absolute[dim] += weight * v_absolute[key][dim];
      result.value_sum[dim] += weight * std::abs(v[key][dim]);
    }
  }
  return result;
}

// Scores are wrong by at most num_roundings * u * score_absolute, which changes each weight by
// twice that (numerator and sum); the weighted sums round once a key and once a rank. Expanded:
// keys and values are rounded to BF16 besides. The result is rounded to BF16 at the end.
double tolerance(const MlaShape& shape,
                 const ExpectedOut& expected,
                 size_t dim,
                 int32_t num_keys,
                 MlaForm form) {
  const double score_roundings = shape.kv_dim() + shape.qk_nope_head_dim + 16;
  const double sum_roundings = num_keys + shape.kv_lora_rank + 32;
  double weight_error = 2.0 * score_roundings * kUnitRoundoff * expected.score_absolute;
  double value_error = 2.0 * sum_roundings * kUnitRoundoff * expected.absolute[dim];
  if (form == MlaForm::kExpanded) {
    weight_error += 2.0 * kBf16UnitRoundoff * expected.key_absolute;
    value_error += kBf16UnitRoundoff * expected.value_sum[dim];
  }
  // exp(x) - 1 <= 1.3 x for the small errors here (x < 0.4).
  return (kBf16UnitRoundoff * std::abs(expected.value[dim]) + value_error +
          1.3 * weight_error * expected.value_sum[dim]) *
         1.01;
}

Batch batch_of(std::span<const BatchItem> items) {
  return {.token_ids = {}, .items = items, .logit_token_idx = {}};
}

BatchItem item_of(const Sequence& sequence, int32_t token_begin, int32_t context, int32_t num) {
  return {.token_begin = token_begin,
          .num_tokens = num,
          .context_size_tokens = context,
          .page_ids = sequence.cache.page_ids};
}

// Attention of one sequence in chunks of at most chunk_size tokens.
TestMatrix<bf16> run_in_chunks(HostDevice& device,
                               const MlaShape& shape,
                               MlaForm form,
                               const KvBWeight& kv_b,
                               Sequence sequence,
                               int32_t chunk_size) {
  TestMatrix<bf16> out(sequence.num_tokens, int64_t{shape.num_attention_heads} * shape.v_head_dim);
  PagedCache whole = sequence.cache;
  sequence.cache.forget_from(0);
  for (int32_t begin = 0; begin < sequence.num_tokens; begin += chunk_size) {
    const int32_t num = std::min(chunk_size, sequence.num_tokens - begin);
    for (int32_t position = begin; position < begin + num; ++position) {
      std::copy_n(whole.slot(position), shape.kv_dim(), sequence.cache.slot(position));
    }
    const BatchItem item = item_of(sequence, 0, begin, num);
    device.ops->begin_step(batch_of({&item, 1}), form);
    device.ops->mla_attention(shape, sequence.q.view().rows_from(begin, num), kv_b,
                              sequence.cache.layer(), out.view().rows_from(begin, num));
  }
  return out;
}

const std::vector<MlaShape> kShapes{
    {.num_attention_heads = 3,
     .qk_nope_head_dim = 20,
     .qk_rope_head_dim = 8,
     .v_head_dim = 24,
     .kv_lora_rank = 40,
     .softmax_scale = 0.19f},
    {.num_attention_heads = 5,
     .qk_nope_head_dim = 7,
     .qk_rope_head_dim = 6,
     .v_head_dim = 5,
     .kv_lora_rank = 33,
     .softmax_scale = 0.25f},
    {.num_attention_heads = 1,
     .qk_nope_head_dim = 16,
     .qk_rope_head_dim = 2,
     .v_head_dim = 16,
     .kv_lora_rank = 16,
     .softmax_scale = 0.3f},
    {.num_attention_heads = 2,  // values wider than keys and latents
     .qk_nope_head_dim = 16,
     .qk_rope_head_dim = 16,
     .v_head_dim = 128,
     .kv_lora_rank = 32,
     .softmax_scale = 0.2f},
};
const MlaShape kK2Widths{.num_attention_heads = 4,
                         .qk_nope_head_dim = 128,
                         .qk_rope_head_dim = 64,
                         .v_head_dim = 128,
                         .kv_lora_rank = 512,
                         .softmax_scale = 0.1446796f};

void check_against_equations(HostDevice& device,
                             const MlaShape& shape,
                             MlaForm form,
                             int32_t num_tokens,
                             std::vector<int32_t> positions) {
  Sequence sequence(shape, num_tokens, 31);
  const TestMatrix<bf16> kv_b_matrix = random_kv_b(shape, 32);
  const auto kv_b = device.ops->load_kv_b(kv_b_matrix.view(), shape);
  device.ops->reserve({}, shape);
  const TestMatrix<bf16> out =
      run_in_chunks(device, shape, form, *kv_b, sequence, sequence.num_tokens);
  CHECK(out.padding_is_untouched());
  for (const int32_t position : positions) {
    for (int32_t head = 0; head < shape.num_attention_heads; ++head) {
      const ExpectedOut expected = expected_attention(shape, sequence, kv_b_matrix, position, head);
      for (size_t dim = 0; dim < expected.value.size(); ++dim) {
        const auto col = int64_t{head} * shape.v_head_dim + static_cast<int64_t>(dim);
        const double actual = out.view()(position, col).to_float();
        INFO("position " << position << ", head " << head << ", dim " << dim);
        REQUIRE(std::abs(actual - expected.value[dim]) <=
                tolerance(shape, expected, dim, position + 1, form));
      }
    }
  }
}

}  // namespace

TEST_CASE("attention equals equations 8 and 9 in both forms and reads no unwritten slot",
          "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  for (const MlaShape& shape : kShapes) {
    for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
      check_against_equations(device, shape, form, 150,
                              {0, 1, 2, 14, 15, 16, 31, 62, 63, 64, 65, 100, 127, 128, 149});
    }
  }
  check_against_equations(device, kK2Widths, MlaForm::kAbsorbed, 70, {0, 40, 69});
  check_against_equations(device, kK2Widths, MlaForm::kExpanded, 70, {0, 40, 69});
}

TEST_CASE("attention has the same bits for every chunking of the prompt", "[gpu][host][per_isa]") {
  const host::Kernels& kernels = kernels_under_test();
  HostDevice device(2, kernels);
  for (const MlaShape& shape : {kShapes[0], kShapes[1], kK2Widths}) {
    const bool wide = shape.kv_lora_rank > 100;
    const Sequence sequence(shape, wide ? 131 : 203, 33);
    const TestMatrix<bf16> kv_b_matrix = random_kv_b(shape, 34);
    const auto kv_b = device.ops->load_kv_b(kv_b_matrix.view(), shape);
    device.ops->reserve({}, shape);
    for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
      if (wide && form == MlaForm::kExpanded) continue;
      const auto whole = run_in_chunks(device, shape, form, *kv_b, sequence, sequence.num_tokens);
      for (const int32_t chunk_size : {1, 7, 64, 100}) {
        const auto chunked = run_in_chunks(device, shape, form, *kv_b, sequence, chunk_size);
        INFO("chunks of " << chunk_size);
        CHECK(same_bits(std::span(whole.values), std::span(chunked.values)));
      }
    }
  }
}

TEST_CASE("attention of a token is untouched by what later tokens of its chunk hold",
          "[gpu][host][per_isa]") {
  HostDevice device(2, kernels_under_test());
  const MlaShape& shape = kShapes[0];
  const TestMatrix<bf16> kv_b_matrix = random_kv_b(shape, 38);
  const auto kv_b = device.ops->load_kv_b(kv_b_matrix.view(), shape);
  device.ops->reserve({}, shape);
  for (const MlaForm form : {MlaForm::kAbsorbed, MlaForm::kExpanded}) {
    const Sequence sound(shape, 100, 39);
    const auto expected = run_in_chunks(device, shape, form, *kv_b, sound, sound.num_tokens);
    for (const int32_t first_broken : {1, 16, 33, 64, 70, 99}) {
      Sequence broken = sound;
      broken.cache.forget_from(first_broken);
      const auto out = run_in_chunks(device, shape, form, *kv_b, broken, broken.num_tokens);
      int64_t num_different = 0;
      for (int32_t row = 0; row < first_broken; ++row) {
        num_different += !same_bits(out.view().row(row), expected.view().row(row));
      }
      INFO("NaN from position " << first_broken);
      CHECK(num_different == 0);
    }
  }
}

TEST_CASE("attention has the same bits on any number of threads and in any batch",
          "[gpu][host][per_isa]") {
  const host::Kernels& kernels = kernels_under_test();
  const MlaShape& shape = kShapes[0];
  const int64_t q_cols = int64_t{shape.num_attention_heads} * shape.qk_head_dim();
  const int64_t out_cols = int64_t{shape.num_attention_heads} * shape.v_head_dim;
  const TestMatrix<bf16> kv_b_matrix = random_kv_b(shape, 35);

  // Three sequences in one cache: a prefill from the start, a decode and a later chunk.
  Sequence all(shape, 600, 36);
  const std::span<const int32_t> pages = all.cache.page_ids;
  const std::vector<BatchItem> items{
      {.token_begin = 0, .num_tokens = 90, .context_size_tokens = 0, .page_ids = pages.first(2)},
      {.token_begin = 90,
       .num_tokens = 1,
       .context_size_tokens = 191,
       .page_ids = pages.subspan(2, 3)},
      {.token_begin = 91,
       .num_tokens = 0,
       .context_size_tokens = 0,
       .page_ids = pages.subspan(5, 1)},
      {.token_begin = 91,
       .num_tokens = 37,
       .context_size_tokens = 50,
       .page_ids = pages.subspan(5, 2)},
  };
  const TestMatrix<bf16> q = Values(37).matrix<bf16>(128, q_cols);
  TestMatrix<bf16> expected(128, out_cols);
  {
    HostDevice device(1, kernels);
    const auto kv_b = device.ops->load_kv_b(kv_b_matrix.view(), shape);
    device.ops->reserve({}, shape);
    for (const BatchItem& item : items) {
      for (int32_t token = 0; token < item.num_tokens; ++token) {
        const int32_t row = item.token_begin + token;
        const BatchItem alone{.token_begin = 0,
                              .num_tokens = 1,
                              .context_size_tokens = item.context_size_tokens + token,
                              .page_ids = item.page_ids};
        device.ops->begin_step(batch_of({&alone, 1}), MlaForm::kAuto);
        device.ops->mla_attention(shape, q.view().rows_from(row, 1), *kv_b, all.cache.layer(),
                                  expected.view().rows_from(row, 1));
      }
    }
  }
  for (const int num_threads : {1, 2, 3, 5}) {
    HostDevice device(num_threads, kernels);
    const auto kv_b = device.ops->load_kv_b(kv_b_matrix.view(), shape);
    device.ops->reserve({}, shape);
    TestMatrix<bf16> out(128, out_cols);
    device.ops->begin_step(batch_of(items), MlaForm::kAuto);
    device.ops->mla_attention(shape, q.view(), *kv_b, all.cache.layer(), out.view());
    INFO("threads " << num_threads);
    CHECK(same_bits(std::span(out.values), std::span(expected.values)));
  }
}

TEST_CASE("rope rotates interleaved pairs and appends normed latents to the token's slot",
          "[gpu][host][per_isa]") {
  const host::Kernels& kernels = kernels_under_test();
  HostDevice device(2, kernels);
  const MlaShape& shape = kShapes[0];
  const int32_t num_pairs = shape.qk_rope_head_dim / 2;
  const std::vector<float> frequencies{1.0f, 0.7131110849f, 2.274203757e-3f, 4.382206456e-7f};
  Values values(41);
  const std::vector<bf16> layernorm = values.vector<bf16>(shape.kv_lora_rank);
  constexpr int32_t kContext = 262'070;  // the last page is begun in the middle
  constexpr int32_t kTokens = 70;
  PagedCache cache(shape, kContext + kTokens, 42);
  const int64_t q_cols = int64_t{shape.num_attention_heads} * shape.qk_head_dim();
  TestMatrix<bf16> q = values.matrix<bf16>(kTokens, q_cols);
  const TestMatrix<bf16> before = q;
  const TestMatrix<float> kv_a = values.matrix<float>(kTokens, shape.kv_dim());
  const BatchItem item{.token_begin = 0,
                       .num_tokens = kTokens,
                       .context_size_tokens = kContext,
                       .page_ids = cache.page_ids};
  const float magnitude = 1.25f;
  device.ops->begin_step(batch_of({&item, 1}), MlaForm::kAuto);
  device.ops->rope_and_append_kv(
      shape, {.kv_a_layernorm = layernorm, .frequencies = frequencies, .magnitude = magnitude},
      q.view(), kv_a.view(), cache.layer());
  CHECK(q.padding_is_untouched());

  TestMatrix<bf16> normed(kTokens, shape.kv_lora_rank);
  device.ops->rms_norm(kv_a.view().columns(0, shape.kv_lora_rank), layernorm, 1e-6f, normed.view());
  int64_t num_wrong = 0;
  // Half a BF16 step, and two products, a sum and three roundings of cos and sin in FP32.
  const auto near = [](bf16 actual, double expected, double absolute) {
    return std::abs(double{actual.to_float()} - expected) <=
           kBf16UnitRoundoff * std::abs(expected) + 8 * kUnitRoundoff * absolute;
  };
  for (int32_t token = 0; token < kTokens; ++token) {
    const int32_t position = kContext + token;
    const bf16* slot = cache.slot(position);
    num_wrong += !same_bits(std::span<const bf16>(slot, static_cast<size_t>(shape.kv_lora_rank)),
                            std::span<const bf16>(normed.view().row(token)));
    for (int32_t pair = 0; pair < num_pairs; ++pair) {
      const float angle = static_cast<float>(position) * frequencies[static_cast<size_t>(pair)];
      const double cos = std::cos(double{angle}) * magnitude;
      const double sin = std::sin(double{angle}) * magnitude;
      const auto check = [&](double even, double odd, const bf16* rotated) {
        const double absolute = magnitude * (std::abs(even) + std::abs(odd));
        num_wrong += !near(rotated[0], even * cos - odd * sin, absolute);
        num_wrong += !near(rotated[1], odd * cos + even * sin, absolute);
      };
      const int32_t key_idx = shape.kv_lora_rank + 2 * pair;
      check(kv_a.view()(token, key_idx), kv_a.view()(token, key_idx + 1), slot + key_idx);
      for (int32_t head = 0; head < shape.num_attention_heads; ++head) {
        const int64_t col = int64_t{head} * shape.qk_head_dim() + shape.qk_nope_head_dim + 2 * pair;
        check(before.view()(token, col).to_float(), before.view()(token, col + 1).to_float(),
              &q.view()(token, col));
      }
    }
    for (int32_t head = 0; head < shape.num_attention_heads; ++head) {
      const int64_t col = int64_t{head} * shape.qk_head_dim();
      num_wrong += !same_bits(
          q.view().columns(col, shape.qk_nope_head_dim).row(token),
          TestMatrix<bf16>(before).view().columns(col, shape.qk_nope_head_dim).row(token));
    }
  }
  CHECK(num_wrong == 0);
  // Nothing else was written: slots before and behind are as they were.
  CHECK(std::isnan(cache.slot(kContext - 1)[0].to_float()));
  CHECK(std::isnan(cache.slot(kContext + kTokens)[0].to_float()));
}

}  // namespace tandem::gpu::testing
