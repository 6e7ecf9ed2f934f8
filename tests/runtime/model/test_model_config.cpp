#include "runtime/model/model_config.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <catch2/catch_approx.hpp>
#include <catch2/catch_test_macros.hpp>
#include <catch2/generators/catch_generators.hpp>
#include <catch2/matchers/catch_matchers_string.hpp>
#include <cmath>

#include "runtime/base/errors.h"
#include "runtime/model/config_writer.h"
#include "runtime/model/synthetic_checkpoint.h"
#include "tests/runtime/model/temp_dir.h"

namespace tandem {
namespace {

namespace json = boost::json;
using Catch::Approx;
using Catch::Matchers::ContainsSubstring;

// K2-Thinking's configuration as JSON, to be changed key by key.
json::object k2_object() { return json::parse(config_text(k2_thinking_config())).as_object(); }
ModelConfig parse(const json::object& object) {
  return ModelConfig::parse(std::string(json::serialize(object)));
}
std::string error_of(const json::object& object) {
  try {
    parse(object);
  } catch (const ConfigError& error) {
    return error.what();
  }
  return "no error";
}

TEST_CASE("K2-Thinking's configuration is read field by field", "[config]") {
  const ModelConfig config = parse(k2_object());
  CHECK(config.model_type == "kimi_k2");
  CHECK(config.tensor_prefix.empty());
  CHECK(config.hidden_size == 7168);
  CHECK(config.num_hidden_layers == 61);
  CHECK(config.num_moe_layers() == 60);
  CHECK(config.is_dense(0));
  CHECK_FALSE(config.is_dense(1));
  CHECK(config.intermediate_size == 18432);
  CHECK(config.moe_intermediate_size == 2048);
  CHECK(config.n_routed_experts == 384);
  CHECK(config.num_experts_per_tok == 8);
  CHECK(config.n_shared_experts == 1);
  CHECK(config.shared_intermediate_size() == 2048);
  CHECK(config.norm_topk_prob);
  CHECK(config.routed_scaling_factor == 2.827f);
  CHECK(config.num_attention_heads == 64);
  CHECK(config.q_lora_rank == 1536);
  CHECK(config.kv_dim() == 576);
  CHECK(config.qk_head_dim() == 192);
  CHECK(config.v_head_dim == 128);
  CHECK(config.vocab_size == 163840);
  CHECK(config.max_position_embeddings == 262144);
  CHECK(config.rope_theta == 50000.0f);
  REQUIRE(config.rope_scaling);
  CHECK(config.rope_scaling->factor == 64.0f);
  CHECK(config.rope_scaling->beta_fast == 1.0f);
  CHECK(config.rms_norm_eps == 1e-5f);
  CHECK(config.lora_rms_norm_eps == 1e-6f);
  CHECK(config.experts_int4);
  CHECK_FALSE(config.tie_word_embeddings);
  CHECK(config.eos_token_ids == std::vector<int32_t>{163586});
  CHECK(config.bos_token_id == 163584);
  CHECK(config.pad_token_id == 163839);
}

// Published values of equation 6, K2-Thinking and relatives.
TEST_CASE("YaRN frequencies are the published ones", "[config]") {
  ModelConfig config = k2_thinking_config();
  const std::vector<float> thinking = rope_frequencies(config);
  REQUIRE(thinking.size() == 32);
  const std::vector<std::pair<int, double>> published = {{0, 1.0},
                                                         {1, 0.7131110849},
                                                         {8, 6.687403050e-2},
                                                         {18, 2.274203757e-3},
                                                         {19, 1.621759908e-3},
                                                         {20, 1.807023387e-5},
                                                         {21, 1.288608408e-5},
                                                         {31, 4.382206456e-7}};
  // Ten published digits, rounded to float: 2^-24 relative, and the digits' own 1e-9.
  const auto published_value = [](double value) { return Approx(value).epsilon(7e-8); };
  for (const auto& [pair_idx, value] : published) {
    CHECK(double{thinking[pair_idx]} == published_value(value));
  }
  config.rope_scaling->beta_fast = 32.0f;  // K2.5
  const std::vector<float> k2_5 = rope_frequencies(config);
  CHECK(double{k2_5[8]} == published_value(6.687403050e-2));
  CHECK(double{k2_5[9]} == published_value(4.377665595e-2));
  CHECK(double{k2_5[18]} == published_value(4.086459875e-4));
  CHECK(double{k2_5[19]} == published_value(1.583749910e-4));
  config.rope_scaling->beta_fast = 1.0f;  // K2-Instruct
  config.rope_scaling->factor = 32.0f;
  CHECK(double{rope_frequencies(config)[20]} == published_value(3.614046774e-5));
  config.rope_scaling.reset();  // Moonlight
  for (int pair_idx = 0; pair_idx < 32; ++pair_idx) {
    CHECK(double{rope_frequencies(config)[pair_idx]} ==
          Approx(std::pow(50000.0, -pair_idx / 32.0)).epsilon(7e-8));
  }
}

TEST_CASE("softmax scale and rope magnitude are the published ones", "[config]") {
  ModelConfig config = k2_thinking_config();
  CHECK(double{softmax_scale(config)} == Approx(0.144679625803).epsilon(1e-7));
  CHECK(rope_magnitude(config) == 1.0f);
  config.rope_scaling->factor = 32.0f;  // K2-Instruct
  CHECK(double{softmax_scale(config)} == Approx(0.1308608000).epsilon(1e-7));
  config.rope_scaling->factor = 40.0f;  // DeepSeek-V3
  CHECK(double{softmax_scale(config)} == Approx(0.1352337789).epsilon(1e-7));
  config.rope_scaling->mscale_all_dim = 0.0f;  // not given: no correction, cos and sin carry it
  CHECK(double{softmax_scale(config)} == Approx(1.0 / std::sqrt(192.0)).epsilon(1e-7));
  CHECK(double{rope_magnitude(config)} == Approx(0.1 * std::log(40.0) + 1.0).epsilon(1e-7));
  config.rope_scaling.reset();
  CHECK(double{softmax_scale(config)} == Approx(1.0 / std::sqrt(192.0)).epsilon(1e-7));
  CHECK(rope_magnitude(config) == 1.0f);
}

TEST_CASE("K2.5's nesting gives the inner configuration and the prefix", "[config]") {
  json::object outer = {{"model_type", "kimi_k25"},
                        {"text_config", k2_object()},
                        {"hidden_size", 1},  // another tower's
                        {"tie_word_embeddings", false},
                        {"vision_config", {{"hidden_size", 8}}}};
  const ModelConfig config = parse(outer);
  CHECK(config.model_type == "kimi_k2");
  CHECK(config.tensor_prefix == "language_model.");
  CHECK(config.hidden_size == 7168);
  CHECK(config.experts_int4);
  // The quantisation may stand outside.
  json::object inner = k2_object();
  outer["quantization_config"] = inner["quantization_config"];
  inner.erase("quantization_config");
  outer["text_config"] = inner;
  CHECK(parse(outer).experts_int4);
  // Errors say where they are.
  inner["hidden_size"] = -5;
  outer["text_config"] = inner;
  CHECK_THAT(error_of(outer), ContainsSubstring("text_config.hidden_size is -5"));
}

TEST_CASE("Moonlight's nulls are absences", "[config]") {
  json::object object = k2_object();
  object["q_lora_rank"] = nullptr;
  object["rope_scaling"] = nullptr;
  object.erase("quantization_config");
  const ModelConfig config = parse(object);
  CHECK(config.q_lora_rank == 0);
  CHECK_FALSE(config.rope_scaling);
  CHECK_FALSE(config.experts_int4);
}

TEST_CASE("rope parameters of newer writers are read", "[config]") {
  json::object object = k2_object();
  json::object rope = object["rope_scaling"].as_object();
  rope["rope_type"] = rope["type"];
  rope.erase("type");
  rope["rope_theta"] = object["rope_theta"];
  object["rope_parameters"] = rope;
  object.erase("rope_scaling");
  object.erase("rope_theta");
  const ModelConfig config = parse(object);
  CHECK(config.rope_theta == 50000.0f);
  CHECK(rope_frequencies(config) == rope_frequencies(k2_thinking_config()));
}

TEST_CASE("eos_token_id is an id or a list, joined with generation_config.json", "[config]") {
  json::object object = k2_object();
  object["eos_token_id"] = json::array{163586, 163585};
  CHECK(parse(object).eos_token_ids == std::vector<int32_t>{163586, 163585});
  object["eos_token_id"] = nullptr;
  CHECK(parse(object).eos_token_ids.empty());

  const test::TempDir dir;
  object["eos_token_id"] = 163585;
  test::write_file(dir.path() / "config.json", json::serialize(object));
  CHECK(ModelConfig::load(dir.path()).eos_token_ids == std::vector<int32_t>{163585});
  test::write_file(dir.path() / "generation_config.json", R"({"eos_token_id": [163586, 163585]})");
  CHECK(ModelConfig::load(dir.path()).eos_token_ids == std::vector<int32_t>{163585, 163586});
  test::write_file(dir.path() / "generation_config.json", R"({"eos_token_id": 163840})");
  CHECK_THROWS_WITH(ModelConfig::load(dir.path()),
                    ContainsSubstring("generation_config.json: eos_token_id is 163840"));
  test::write_file(dir.path() / "generation_config.json", "{");
  CHECK_THROWS_WITH(ModelConfig::load(dir.path()), ContainsSubstring("generation_config.json"));
}

TEST_CASE("a missing required key is named", "[config]") {
  for (const std::string key :
       {"hidden_size", "num_hidden_layers", "intermediate_size", "vocab_size",
        "max_position_embeddings", "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim",
        "qk_rope_head_dim", "v_head_dim", "moe_intermediate_size", "n_routed_experts",
        "num_experts_per_tok"}) {
    json::object object = k2_object();
    object.erase(key);
    CHECK_THAT(error_of(object), ContainsSubstring("config.json: " + key + " is missing"));
    object[key] = "seven";
    CHECK_THAT(error_of(object), ContainsSubstring(key + " is \"seven\""));
  }
}

TEST_CASE("a value out of range is named with what was expected", "[config]") {
  struct Case {
    std::string key;
    std::string value;  // JSON
    std::string message;
  };
  const Case bad = GENERATE(values<Case>({
      {"hidden_size", "0", "hidden_size is 0, expected an integer from 1 to 1048576"},
      {"hidden_size", "7168.5", "hidden_size is 7.1685E3"},
      {"hidden_size", "99999999999999999999", "hidden_size is"},
      {"hidden_size", "7169", "expected a multiple of 32"},
      {"moe_intermediate_size", "2000", "expected a multiple of 32"},
      {"num_hidden_layers", "-1", "num_hidden_layers is -1"},
      {"first_k_dense_replace", "62", "first_k_dense_replace is 62, expected an integer from 0"},
      {"qk_rope_head_dim", "63", "qk_rope_head_dim is 63, expected an even integer"},
      {"num_key_value_heads", "8", "num_key_value_heads is 8, expected 64"},
      {"num_experts_per_tok", "385", "num_experts_per_tok is 385"},
      {"n_group", "7", "n_group is 7, expected a divisor of n_routed_experts (384)"},
      {"n_group", "384", "n_group is 384"},
      {"topk_group", "2", "topk_group is 2, expected an integer from 1 to 1"},
      {"vocab_size", "1e300", "vocab_size is 1E300"},
      {"rms_norm_eps", "-1", "rms_norm_eps is -1"},
      {"rope_theta", "1", "rope_theta is 1"},
      {"routed_scaling_factor", "0", "routed_scaling_factor is 0"},
      {"hidden_act", "\"gelu\"", "hidden_act is \"gelu\", expected \"silu\""},
      {"scoring_func", "\"softmax\"", "scoring_func is \"softmax\", expected \"sigmoid\""},
      {"topk_method", "\"greedy\"", "topk_method is \"greedy\", expected \"noaux_tc\""},
      {"attention_bias", "true", "attention_bias is true, expected false"},
      {"norm_topk_prob", "1", "norm_topk_prob is 1, expected true or false"},
      {"tie_word_embeddings", "\"no\"", "tie_word_embeddings is \"no\""},
      {"eos_token_id", "163840", "eos_token_id is 163840"},
      {"eos_token_id", "[1, -1]", "eos_token_id is [1,-1]"},
      {"rope_scaling", "[]", "rope_scaling is [], expected an object"},
      {"rope_scaling", R"({"type":"linear","factor":2})", "rope_scaling.type is \"linear\""},
      {"rope_scaling", R"({"type":"yarn"})", "rope_scaling.factor is missing"},
      {"rope_scaling", R"({"type":"yarn","factor":0.5})", "rope_scaling.factor is"},
      {"text_config", "3", "text_config is 3, expected an object"},
      {"quantization_config", R"({"quant_method":"fp8"})", "quant_method is \"fp8\""},
      {"quantization_config", R"({"format":"pack-quantized"})", "config_groups is missing"},
      {"quantization_config", R"({"format":"int-quantized"})", "format is \"int-quantized\""},
  }));
  json::object object = k2_object();
  object[bad.key] = json::parse(bad.value);
  CHECK_THAT(error_of(object), ContainsSubstring(bad.message));
}

TEST_CASE("a quantisation other than INT4 in groups of 32 is refused by key", "[config]") {
  const std::vector<std::pair<std::string, std::string>> changes = {
      {"num_bits", "8"},     {"group_size", "128"},       {"symmetric", "false"},
      {"type", "\"float\""}, {"strategy", "\"channel\""}, {"actorder", "\"group\""},
      {"num_bits", "null"},  {"group_size", "null"}};
  for (const auto& [key, value] : changes) {
    json::object object = k2_object();
    json::value& weights =
        object["quantization_config"].at("config_groups").at("group_0").at("weights");
    weights.as_object()[key] = json::parse(value);
    CHECK_THAT(error_of(object),
               ContainsSubstring("quantization_config.config_groups.group_0.weights." + key));
  }
}

TEST_CASE("what is not a JSON object is refused", "[config]") {
  for (const std::string text : {"", "[]", "{", "null", "{} {}", "\xff"}) {
    CHECK_THROWS_AS(ModelConfig::parse(text), ConfigError);
  }
  CHECK_THROWS_AS(ModelConfig::parse(std::string(100000, '[')), ConfigError);
  const test::TempDir dir;
  CHECK_THROWS_AS(ModelConfig::load(dir.path()), LoadError);
}

TEST_CASE("a written configuration reads back the same", "[config]") {
  ModelConfig config = k2_thinking_config();
  config.tensor_prefix = "language_model.";
  config.q_lora_rank = 0;
  config.eos_token_ids = {7, 9};
  config.rms_norm_eps = 0.1f;  // no exact decimal
  config.bos_token_id = -1;
  const std::string text = config_text(config);
  const ModelConfig again = ModelConfig::parse(text);
  CHECK(config_text(again) == text);
  CHECK(again.rms_norm_eps == config.rms_norm_eps);
  CHECK(again.eos_token_ids == config.eos_token_ids);
  CHECK(again.q_lora_rank == 0);
  CHECK(again.bos_token_id == -1);
}

}  // namespace
}  // namespace tandem
