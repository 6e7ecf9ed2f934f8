// The family's published files, where the machine has them: TANDEM_SHARED_DIR, or ../shared.
#include <catch2/catch_test_macros.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cstdlib>

#include "runtime/base/errors.h"
#include "runtime/model/model_config.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "runtime/model/synthetic_vocabulary.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

std::filesystem::path published(const std::string& name) {
  const char* const shared = std::getenv("TANDEM_SHARED_DIR");
  const std::filesystem::path root =
      shared != nullptr ? std::filesystem::path(shared)
                        : std::filesystem::path(TANDEM_SOURCE_DIR) / ".." / "shared";
  const std::filesystem::path path = root / "model" / name;
  if (!std::filesystem::exists(path)) SKIP("needs " << path << " (set TANDEM_SHARED_DIR)");
  return path;
}

ModelConfig parse_published(const std::string& name) {
  return ModelConfig::parse(test::read_file(published(name)));
}

TEST_CASE("K2-Thinking's config.json has the dimensions of k2_thinking_config", "[published]") {
  const ModelConfig config = parse_published("kimi_k2_thinking.config.json");
  const ModelConfig ours = k2_thinking_config();
  CHECK(config.experts_int4);
  CHECK(config.eos_token_ids == ours.eos_token_ids);
  CHECK(config.vocab_size == ours.vocab_size);
  CHECK(config.rms_norm_eps == ours.rms_norm_eps);
  CHECK(config.routed_scaling_factor == ours.routed_scaling_factor);
  CHECK(rope_frequencies(config) == rope_frequencies(ours));
  CHECK(softmax_scale(config) == softmax_scale(ours));
  CHECK(synthetic_checkpoint_size_bytes(config) == synthetic_checkpoint_size_bytes(ours));
}

TEST_CASE("K2.5's nested config.json is read with its prefix and its own YaRN", "[published]") {
  const ModelConfig config = parse_published("kimi_k2_5.config.json");
  CHECK(config.tensor_prefix == "language_model.");
  CHECK(config.model_type == "kimi_k2");
  CHECK(config.experts_int4);
  REQUIRE(config.rope_scaling);
  CHECK(config.rope_scaling->beta_fast == 32.0f);
  CHECK(config.num_hidden_layers == 61);
}

TEST_CASE("K2-Instruct's FP8 weights are refused by key", "[published]") {
  const std::string text = test::read_file(published("kimi_k2_instruct.config.json"));
  CHECK_THROWS_WITH(ModelConfig::parse(text),
                    Catch::Matchers::ContainsSubstring("quantization_config.quant_method"));
}

TEST_CASE("the family's vocabulary has 163,584 tokens", "[published]") {
  CHECK(count_tiktoken_tokens(published("tiktoken.model")) == 163584);
}

}  // namespace
}  // namespace tandem
