#include "runtime/reference/reference_model.h"

#include <fmt/format.h>

#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/generators/catch_generators_range.hpp>
#include <cmath>
#include <limits>

#include "runtime/base/errors.h"
#include "tests/runtime/reference/golden.h"

namespace tandem {
namespace {

// max|actual - expected| / max|expected|; infinite when sizes differ or a value is not finite.
double relative_error(const std::vector<float>& actual, const std::vector<float>& expected) {
  if (actual.size() != expected.size()) return std::numeric_limits<double>::infinity();
  double largest = 0.0;
  double worst = 0.0;
  for (size_t idx = 0; idx < actual.size(); ++idx) {
    if (!std::isfinite(actual[idx])) return std::numeric_limits<double>::infinity();
    largest = std::max(largest, std::abs(double{expected[idx]}));
    worst = std::max(worst, std::abs(double{actual[idx]} - double{expected[idx]}));
  }
  return worst / largest;
}

// The golden side is FP32 throughout; its own rounding is up to 1.8e-5 of the largest logit
// (real_head, against FP64), an FP32 path with FP64 sums adds less. 5e-5 bounds the two.
constexpr double kTolerance = 5e-5;

TEST_CASE("reference reproduces the golden logits, hidden states and experts", "[reference]") {
  const std::string name = GENERATE(from_range(test::kGoldenNames));
  const AttentionForm form = GENERATE(AttentionForm::kExpanded, AttentionForm::kAbsorbed);
  INFO(name << (form == AttentionForm::kExpanded ? ", expanded" : ", absorbed"));
  const Checkpoint checkpoint = Checkpoint::open(test::golden_dir(name));
  const test::Golden golden(name);
  const ReferenceOutput output = ReferenceModel(checkpoint).run(golden.ints("input_ids"), form);

  CHECK(relative_error(output.logits, golden.floats("logits")) < kTolerance);
  const int32_t num_layers = checkpoint.config().num_hidden_layers;
  REQUIRE(output.hidden.size() == static_cast<size_t>(num_layers) + 1);
  for (int32_t layer_idx = 0; layer_idx <= num_layers; ++layer_idx) {
    const std::string suffix = fmt::format(".{}", layer_idx);
    CHECK(relative_error(output.hidden[layer_idx], golden.floats("hidden" + suffix)) < kTolerance);
    if (layer_idx == num_layers) break;
    const bool is_dense = checkpoint.config().is_dense(layer_idx);
    REQUIRE(golden.has("router_ids" + suffix) == !is_dense);
    if (is_dense) {
      CHECK(output.expert_ids[layer_idx].empty());
      continue;
    }
    CHECK(output.expert_ids[layer_idx] == golden.ints("router_ids" + suffix));
    CHECK(relative_error(output.expert_weights[layer_idx],
                         golden.floats("router_weights" + suffix)) < kTolerance);
  }
}

TEST_CASE("a prefix of the tokens gives the same logits: attention is causal", "[reference]") {
  const Checkpoint checkpoint = Checkpoint::open(test::golden_dir("k2_thinking"));
  const std::vector<int32_t> ids = test::Golden("k2_thinking").ints("input_ids");
  const ReferenceModel model(checkpoint);
  const ReferenceOutput whole = model.run(ids);
  const auto vocab_size = static_cast<size_t>(checkpoint.config().vocab_size);
  for (const size_t num_tokens : {1, 2, 65}) {
    const ReferenceOutput part = model.run(std::span(ids).first(num_tokens));
    REQUIRE(part.logits.size() == num_tokens * vocab_size);
    CHECK(std::equal(part.logits.begin(), part.logits.end(), whole.logits.begin()));
  }
}

TEST_CASE("BF16 experts as INT4 change what comes out of experts, by INT4's error", "[reference]") {
  const Checkpoint checkpoint = Checkpoint::open(test::golden_dir("moonlight"));
  const std::vector<int32_t> ids = test::Golden("moonlight").ints("input_ids");
  const ReferenceOutput exact = ReferenceModel(checkpoint).run(ids);
  const ReferenceOutput rounded = ReferenceModel(checkpoint, ExpertPrecision::kInt4).run(ids);
  // Layer 1 is the first with experts: up to its choice nothing differs.
  CHECK(rounded.hidden[1] == exact.hidden[1]);
  CHECK(rounded.expert_ids[1] == exact.expert_ids[1]);
  CHECK(rounded.expert_weights[1] == exact.expert_weights[1]);
  // A step of INT4 is max|w| / 7, its rounding error uniform, 1/sqrt(12) of a step: for normal
  // weights (largest of 32 about 2.1 sigma) 9 % of a weight. Three projections: sqrt(3) * 9 % = 15
  // % of an expert's output, which is the smaller part of the residual stream.
  double difference = 0.0;
  double size = 0.0;
  for (size_t idx = 0; idx < exact.hidden[2].size(); ++idx) {
    const double error = double{rounded.hidden[2][idx]} - double{exact.hidden[2][idx]};
    difference += error * error;
    size += double{exact.hidden[2][idx]} * double{exact.hidden[2][idx]};
  }
  CHECK(std::sqrt(difference / size) < 0.15);
  CHECK(std::sqrt(difference / size) > 0.01);
}

TEST_CASE("expert precision makes no difference where experts are INT4 already", "[reference]") {
  const Checkpoint checkpoint = Checkpoint::open(test::golden_dir("grouped_router"));
  const std::vector<int32_t> ids = test::Golden("grouped_router").ints("input_ids");
  CHECK(ReferenceModel(checkpoint, ExpertPrecision::kInt4).run(ids).logits ==
        ReferenceModel(checkpoint, ExpertPrecision::kAsStored).run(ids).logits);
}

TEST_CASE("a token id outside the vocabulary is named", "[reference]") {
  const Checkpoint checkpoint = Checkpoint::open(test::golden_dir("moonlight"));
  const ReferenceModel model(checkpoint);
  for (const int32_t bad_id : {-1, 300, std::numeric_limits<int32_t>::max()}) {
    const std::vector<int32_t> ids = {5, bad_id};
    CHECK_THROWS_AS(model.run(ids), ConfigError);
  }
}

}  // namespace
}  // namespace tandem
