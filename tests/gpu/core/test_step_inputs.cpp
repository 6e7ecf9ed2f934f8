#include "gpu/cuda/core/step_inputs.h"

#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <vector>

#include "gpu/ops.h"

namespace tandem::gpu::cuda {

TEST_CASE("a step's inputs name every token's position, slot and pages", "[gpu][host]") {
  StepInputs inputs({.max_batch_tokens = 10, .max_context_tokens = 200, .max_sequences = 3});
  std::vector<int32_t> values(static_cast<size_t>(inputs.num_values()), -1);
  const std::vector<int32_t> token_ids{11, 12, 13, 14};
  const std::vector<int32_t> logit_token_idx{0, 3};
  const std::vector<int32_t> pages_a{7, 3, 9, 99};  // one more than needed
  const std::vector<int32_t> pages_b{5};
  const std::vector<BatchItem> items{
      {.token_begin = 0, .num_tokens = 3, .context_size_tokens = 126, .page_ids = pages_a},
      {.token_begin = 3, .num_tokens = 0, .context_size_tokens = 9, .page_ids = pages_b},
      {.token_begin = 3, .num_tokens = 1, .context_size_tokens = 0, .page_ids = pages_b},
  };
  for (int repeat = 0; repeat < 2; ++repeat) {  // filled anew, nothing is left of before
    const int64_t num_used = inputs.fill(
        {.token_ids = token_ids, .items = items, .logit_token_idx = logit_token_idx}, 6, values);
    CHECK(num_used == 4 * 10 + 3 + 1);
    const StepArrays<const int32_t> arrays = inputs.arrays<const int32_t>(values.data());
    const auto first = [](const int32_t* array, int num) {
      return std::vector<int32_t>(array, array + num);
    };
    // Two rows behind the tokens.
    CHECK(first(arrays.token_ids, 6) == std::vector<int32_t>{11, 12, 13, 14, 0, 0});
    CHECK(first(arrays.logit_token_idx, 6) == std::vector<int32_t>{0, 3, 0, 0, 0, 0});
    CHECK(first(arrays.positions, 6) == std::vector<int32_t>{126, 127, 128, 0, 0, 0});
    CHECK(first(arrays.kv_slots, 6) ==
          std::vector<int32_t>{3 * 64 + 62, 3 * 64 + 63, 9 * 64, 5 * 64, -1, -1});
    CHECK(first(arrays.page_ids, 4) == std::vector<int32_t>{7, 3, 9, 5});
    CHECK(inputs.page_ids().data() == arrays.page_ids);
    CHECK(inputs.page_ids().size() == 4);
    REQUIRE(inputs.items().size() == 2);
    CHECK(inputs.items()[0].kv_len == 129);
    CHECK(inputs.items()[0].page_begin == 0);
    CHECK(inputs.items()[1].token_begin == 3);
    CHECK(inputs.items()[1].kv_len == 1);
    CHECK(inputs.items()[1].page_begin == 3);
  }
}

TEST_CASE("a step may have a sequence for every row of logits, or 256 of them", "[gpu][host]") {
  const auto max_sequences = [](int32_t max_batch_tokens, int32_t max_logit_rows) {
    return OpsLimits{.max_batch_tokens = max_batch_tokens, .max_logit_rows = max_logit_rows}
        .max_sequences();
  };
  CHECK(max_sequences(576, 64) == 256);
  CHECK(max_sequences(64, 1) == 64);
  CHECK(max_sequences(812, 300) == 300);
  CHECK(max_sequences(4608, 4096) == 4096);
}

TEST_CASE("a step's inputs hold the longest contexts of as many sequences as a step has",
          "[gpu][host]") {
  const int32_t num_sequences = GENERATE(4, 300);
  constexpr int32_t kContext = 262'144;
  StepInputs inputs({.max_batch_tokens = num_sequences,
                     .max_context_tokens = kContext,
                     .max_sequences = num_sequences});
  std::vector<int32_t> values(static_cast<size_t>(inputs.num_values()));
  const std::vector<int32_t> pages(kContext / 64, 1);
  const std::vector<int32_t> token_ids(static_cast<size_t>(num_sequences));
  std::vector<BatchItem> items;
  for (int32_t idx = 0; idx < num_sequences; ++idx) {
    items.push_back({.token_begin = idx,
                     .num_tokens = 1,
                     .context_size_tokens = kContext - 1,
                     .page_ids = pages});
  }
  CHECK(inputs.fill({.token_ids = token_ids, .items = items, .logit_token_idx = {}}, num_sequences,
                    values) == inputs.num_values());
}

}  // namespace tandem::gpu::cuda
