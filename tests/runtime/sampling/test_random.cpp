#include <catch2/catch_test_macros.hpp>
#include <vector>

#include "runtime/sampling/philox.h"
#include "runtime/sampling/token_counts.h"
#include "tests/runtime/sampling/chi_square.h"

namespace tandem {
namespace {

TEST_CASE("philox gives the published vectors", "[sampling]") {
  using Words = std::array<uint32_t, 4>;
  CHECK(philox4x32({0, 0, 0, 0}, {0, 0}) == Words{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8});
  constexpr uint32_t kOnes = 0xffffffff;
  CHECK(philox4x32({kOnes, kOnes, kOnes, kOnes}, {kOnes, kOnes}) ==
        Words{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd});
  CHECK(philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}) ==
        Words{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1});
}

TEST_CASE("draws are uniform along one seed and across neighbouring seeds", "[sampling]") {
  constexpr int64_t kNumDraws = 200'000;
  const std::vector<double> probabilities(100, 0.01);
  for (const bool along_seeds : {false, true}) {
    std::vector<int64_t> counts(100, 0);
    for (uint64_t draw_idx = 0; draw_idx < kNumDraws; ++draw_idx) {
      const double u = along_seeds ? uniform_at(draw_idx, 0) : uniform_at(12345, draw_idx);
      REQUIRE(u >= 0.0);
      REQUIRE(u < 1.0);
      ++counts[static_cast<size_t>(u * 100.0)];
    }
    const tests::ChiSquare result = tests::chi_square(counts, probabilities, kNumDraws);
    INFO("chi square " << result.statistic << " of " << result.threshold);
    CHECK(result.fits());
  }
}

TEST_CASE("successive draws of a seed are independent", "[sampling]") {
  constexpr int64_t kNumDraws = 200'000;
  std::vector<int64_t> counts(100, 0);
  for (uint64_t draw_idx = 0; draw_idx < kNumDraws; ++draw_idx) {
    const auto first = static_cast<size_t>(uniform_at(7, 2 * draw_idx) * 10.0);
    const auto second = static_cast<size_t>(uniform_at(7, 2 * draw_idx + 1) * 10.0);
    ++counts[10 * first + second];
  }
  CHECK(tests::chi_square(counts, std::vector<double>(100, 0.01), kNumDraws).fits());
}

TEST_CASE("token counts are those of a list, over several growths", "[sampling]") {
  TokenCounts counts;
  std::vector<int32_t> prompt, num_in_output(163840, 0);
  std::vector<bool> is_in_prompt(163840, false);
  uint32_t state = 1;
  const auto next_token = [&] {
    state = state * 1664525u + 1013904223u;
    return static_cast<int32_t>((state >> 8) % 163840u);
  };
  for (int token_idx = 0; token_idx < 3000; ++token_idx) {
    prompt.push_back(next_token());
    is_in_prompt[prompt.back()] = true;
  }
  counts.add_prompt(prompt);
  for (int token_idx = 0; token_idx < 5000; ++token_idx) {
    const int32_t token_id = token_idx % 3 == 0 ? prompt[token_idx % 100] : next_token() % 2000;
    counts.add_output(token_id);
    ++num_in_output[token_id];
  }
  size_t num_distinct = 0;
  for (size_t token_id = 0; token_id < is_in_prompt.size(); ++token_id)
    num_distinct += is_in_prompt[token_id] || num_in_output[token_id] > 0 ? 1 : 0;
  CHECK(counts.entries().size() == num_distinct);
  for (const TokenCounts::Entry& entry : counts.entries()) {
    REQUIRE(entry.is_in_prompt == is_in_prompt[entry.token_id]);
    REQUIRE(entry.num_in_output == num_in_output[entry.token_id]);
  }
}

}  // namespace
}  // namespace tandem
