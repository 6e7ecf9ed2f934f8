// Synthetic checkpoints through the reference model: values that a real model could have.
#include <algorithm>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <cmath>
#include <random>
#include <set>

#include "runtime/model/checkpoint_report.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "runtime/reference/reference_model.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

ModelConfig small_config() {
  ModelConfig config = tiny_k2_config();
  config.num_hidden_layers = 6;
  config.n_routed_experts = 24;
  config.num_experts_per_tok = 8;
  config.kv_lora_rank = 64;
  config.vocab_size = 0;
  return config;
}

double root_mean_square(std::span<const float> values) {
  double sum = 0.0;
  for (const float value : values) sum += double{value} * double{value};
  return std::sqrt(sum / static_cast<double>(values.size()));
}

TEST_CASE("a synthetic checkpoint keeps activations near 1 and spreads its experts",
          "[reference][synthetic]") {
  const int variant = GENERATE(0, 1, 2);
  ModelConfig config = small_config();
  if (variant == 1) {
    config.experts_int4 = false;
    config.q_lora_rank = 0;
  }
  if (variant == 2) {
    config.n_group = 4;
    config.topk_group = 2;
    config.tie_word_embeddings = true;
  }
  const test::TempDir dir;
  write_synthetic_checkpoint(dir.path() / "model", {.config = config, .tiktoken_model = {}}, {});
  REQUIRE(check_checkpoint(dir.path() / "model").ok());
  const Checkpoint checkpoint = Checkpoint::open(dir.path() / "model");
  std::mt19937 random(3);
  std::vector<int32_t> ids;
  std::uniform_int_distribution<int32_t> any_id(0, checkpoint.config().vocab_size - 1);
  for (int token_idx = 0; token_idx < 70; ++token_idx) ids.push_back(any_id(random));

  const ReferenceModel model(checkpoint);
  const ReferenceOutput expanded = model.run(ids, AttentionForm::kExpanded);
  INFO("variant " << variant);
  for (const std::vector<float>& hidden : expanded.hidden) {
    const double magnitude = root_mean_square(hidden);
    CHECK(magnitude > 0.05);
    CHECK(magnitude < 3.0);
  }
  const double logit_magnitude = root_mean_square(expanded.logits);
  CHECK(logit_magnitude > 0.5);
  CHECK(logit_magnitude < 8.0);
  std::set<int32_t> chosen;
  for (const auto& layer_ids : expanded.expert_ids)
    chosen.insert(layer_ids.begin(), layer_ids.end());
  CHECK(chosen.size() == 24);

  // The two forms of attention are the same function; they differ by FP32 roundings of the latent
  // query and value only: a few 2^-24 a layer, of values near 1.
  const ReferenceOutput absorbed = model.run(ids, AttentionForm::kAbsorbed);
  double worst = 0.0;
  for (size_t idx = 0; idx < expanded.logits.size(); ++idx) {
    worst = std::max(worst, std::abs(double{expanded.logits[idx]} - double{absorbed.logits[idx]}));
  }
  CHECK(worst / logit_magnitude < 5e-5);
  CHECK(worst > 0.0);
}

}  // namespace
}  // namespace tandem
