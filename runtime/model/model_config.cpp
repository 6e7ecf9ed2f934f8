#include "runtime/model/model_config.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <numbers>

#include "runtime/base/errors.h"
#include "runtime/memory/mapped_file.h"
#include "runtime/model/expert_tensors.h"
#include "runtime/model/json_fields.h"

namespace tandem {

namespace json = boost::json;

namespace {

// Far above any real model, low enough that products of two fit an int32 and of three an int64.
constexpr IntRange kWidth{1, 1 << 20};
constexpr IntRange kHeadDim{1, 1 << 14};
constexpr IntRange kTokenId{0, (1 << 24) - 1};
constexpr NumberRange kPositive{1e-30, 1e30};
constexpr int64_t kMaxConfigSizeBytes = 16 << 20;

json::value parse_json(std::string_view text, std::string_view what) {
  json::error_code ec;
  json::value root = json::parse(json::string_view(text.data(), text.size()), ec);
  if (ec) throw ConfigError(fmt::format("{}: not JSON: {}", what, ec.message()));
  if (!root.is_object()) throw ConfigError(fmt::format("{}: expected a JSON object", what));
  return root;
}

std::string read_text(const std::filesystem::path& path) {
  const MappedFile file(path);
  if (file.size_bytes() > kMaxConfigSizeBytes) {
    throw ConfigError(fmt::format("{}: {} bytes, expected at most {}", path.string(),
                                  file.size_bytes(), kMaxConfigSizeBytes));
  }
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

// quantization_config of compressed-tensors; true when it is the INT4 of spec §2.3.
bool parse_quantization(const JsonFields& fields) {
  const json::object* const object = fields.find_object("quantization_config");
  if (object == nullptr) return false;
  const JsonFields quantization(*object, "quantization_config.");
  quantization.expect("quant_method", "compressed-tensors");
  if (quantization.string_or("format", "") != "pack-quantized") {
    quantization.fail("format", "\"pack-quantized\"");
  }
  const json::object* const groups = quantization.find_object("config_groups");
  if (groups == nullptr || groups->empty()) {
    quantization.fail("config_groups", "an object with one group or more");
  }
  for (const auto& item : *groups) {
    const std::string key(item.key());
    const JsonFields group_fields(*groups, "quantization_config.config_groups.");
    const json::object* const group = group_fields.find_object(key);
    if (group == nullptr) group_fields.fail(key, "an object");
    const std::string path = "quantization_config.config_groups." + key + ".";
    const json::object* const weights_object = JsonFields(*group, path).find_object("weights");
    if (weights_object == nullptr) JsonFields(*group, path).fail("weights", "an object");
    const JsonFields weights(*weights_object, path + "weights.");
    if (weights.find("num_bits") == nullptr) weights.fail("num_bits", "4");
    if (weights.find("group_size") == nullptr) weights.fail("group_size", "32");
    weights.expect("num_bits", 4);
    weights.expect("group_size", kInt4GroupSize);
    weights.expect("type", "int");
    weights.expect("strategy", "group");
    weights.expect_boolean("symmetric", true);
    if (weights.find("actorder") != nullptr) weights.fail("actorder", "null");
  }
  return true;
}

// rope_scaling (or the rope_parameters of newer writers, which hold rope_theta too).
void parse_rope(const JsonFields& fields, ModelConfig& config) {
  const json::object* object = fields.find_object("rope_scaling");
  const char* path = "rope_scaling.";
  const json::object* const parameters = fields.find_object("rope_parameters");
  if (object == nullptr && parameters != nullptr) {
    object = parameters;
    path = "rope_parameters.";
  }
  const bool theta_is_inside = parameters != nullptr && parameters->if_contains("rope_theta");
  const JsonFields theta_fields =
      theta_is_inside ? JsonFields(*parameters, "rope_parameters.") : fields;
  config.rope_theta = theta_fields.number_or("rope_theta", 10000.0f, {1.0 + 1e-6, 1e12});
  if (object == nullptr) return;
  const JsonFields rope(*object, path);
  const char* const type_key = rope.find("type") != nullptr ? "type" : "rope_type";
  const std::string type = rope.string_or(type_key, "");
  if (type == "default") return;
  if (type != "yarn") rope.fail(type_key, "\"yarn\", \"default\" or no rope_scaling at all");
  RopeScaling scaling;
  scaling.factor = rope.number("factor", {1.0, 1e6});
  scaling.original_max_position_embeddings =
      rope.integer("original_max_position_embeddings", {1, 1 << 30});
  scaling.beta_fast = rope.number_or("beta_fast", 32.0f, kPositive);
  scaling.beta_slow = rope.number_or("beta_slow", 1.0f, kPositive);
  scaling.mscale = rope.number_or("mscale", 1.0f, {0.0, 1e3});
  scaling.mscale_all_dim = rope.number_or("mscale_all_dim", 0.0f, {0.0, 1e3});
  config.rope_scaling = scaling;
}

void parse_attention(const JsonFields& fields, ModelConfig& config) {
  config.num_attention_heads = fields.integer("num_attention_heads", {1, 4096});
  fields.expect("num_key_value_heads", config.num_attention_heads);
  config.q_lora_rank = fields.integer_or("q_lora_rank", 0, kWidth);
  config.kv_lora_rank = fields.integer("kv_lora_rank", kWidth);
  config.qk_nope_head_dim = fields.integer("qk_nope_head_dim", kHeadDim);
  config.qk_rope_head_dim = fields.integer("qk_rope_head_dim", kHeadDim);
  if (config.qk_rope_head_dim % 2 != 0) fields.fail("qk_rope_head_dim", "an even integer");
  config.v_head_dim = fields.integer("v_head_dim", kHeadDim);
  fields.expect_boolean("attention_bias", false);
}

void parse_experts(const JsonFields& fields, ModelConfig& config) {
  config.first_k_dense_replace =
      fields.integer_or("first_k_dense_replace", 0, {0, config.num_hidden_layers});
  config.moe_layer_freq = fields.integer_or("moe_layer_freq", 1, {1, 4096});
  config.n_shared_experts = fields.integer_or("n_shared_experts", 0, {0, 1024});
  config.n_group = fields.integer_or("n_group", 1, {1, 1 << 16});
  config.topk_group = fields.integer_or("topk_group", 1, {1, config.n_group});
  config.norm_topk_prob = fields.boolean_or("norm_topk_prob", true);
  config.routed_scaling_factor = fields.number_or("routed_scaling_factor", 1.0f, kPositive);
  if (config.num_moe_layers() == 0) return;
  fields.expect("scoring_func", "sigmoid");
  fields.expect("topk_method", "noaux_tc");
  config.moe_intermediate_size = fields.integer("moe_intermediate_size", kWidth);
  config.n_routed_experts = fields.integer("n_routed_experts", {1, 1 << 16});
  if (config.hidden_size % kInt4GroupSize != 0) {
    fields.fail("hidden_size", "a multiple of 32, the group size of INT4 experts");
  }
  if (config.moe_intermediate_size % kInt4GroupSize != 0) {
    fields.fail("moe_intermediate_size", "a multiple of 32, the group size of INT4 experts");
  }
  const int32_t group_size = config.n_routed_experts / config.n_group;
  if (config.n_routed_experts % config.n_group != 0 || (config.n_group > 1 && group_size < 2)) {
    fields.fail("n_group",
                fmt::format("a divisor of n_routed_experts ({}) with two experts a group or more",
                            config.n_routed_experts));
  }
  config.num_experts_per_tok =
      fields.integer("num_experts_per_tok", {1, int64_t{config.topk_group} * group_size});
}

void append_unique(std::vector<int32_t>& ids, const std::vector<int32_t>& more) {
  for (const int32_t id : more) {
    if (std::ranges::find(ids, id) == ids.end()) ids.push_back(id);
  }
}

// m(s, a) = 0.1 a ln s + 1, equation 6.
double yarn_magnitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

int32_t ModelConfig::num_moe_layers() const {
  int32_t num_layers = 0;
  for (int32_t layer_idx = 0; layer_idx < num_hidden_layers; ++layer_idx) {
    if (!is_dense(layer_idx)) ++num_layers;
  }
  return num_layers;
}

ModelConfig ModelConfig::parse(std::string_view json_text) {
  const json::value root = parse_json(json_text, "config.json");
  const json::object& outer = root.get_object();
  const json::object* const nested = JsonFields(outer, "").find_object("text_config");
  const JsonFields fields(nested != nullptr ? *nested : outer,
                          nested != nullptr ? "text_config." : "");
  // The keys that K2.5's successors write on either level.
  const JsonFields either =
      nested != nullptr ? JsonFields(*nested, "text_config.", &outer) : fields;

  ModelConfig config;
  config.model_type = fields.string_or("model_type", "");
  config.tensor_prefix = nested != nullptr ? "language_model." : "";
  config.hidden_size = fields.integer("hidden_size", kWidth);
  config.num_hidden_layers = fields.integer("num_hidden_layers", {1, 4096});
  config.intermediate_size = fields.integer("intermediate_size", kWidth);
  config.vocab_size = fields.integer("vocab_size", {1, kTokenId.max});
  config.max_position_embeddings = fields.integer("max_position_embeddings", {1, 1 << 30});
  config.rms_norm_eps = fields.number_or("rms_norm_eps", 1e-6f, {0.0, 1.0});
  fields.expect("hidden_act", "silu");
  parse_attention(fields, config);
  parse_rope(fields, config);
  parse_experts(fields, config);
  config.experts_int4 = parse_quantization(either);
  config.tie_word_embeddings = either.boolean_or("tie_word_embeddings", false);

  const IntRange token_id{0, config.vocab_size - 1};
  append_unique(config.eos_token_ids, either.integer_list("eos_token_id", token_id));
  config.bos_token_id = either.integer_or("bos_token_id", -1, {-1, token_id.max});
  config.pad_token_id = either.integer_or("pad_token_id", -1, {-1, token_id.max});
  return config;
}

ModelConfig ModelConfig::load(const std::filesystem::path& model_dir) {
  const std::string folder = (model_dir / "").string();
  ModelConfig config;
  try {
    config = parse(read_text(model_dir / "config.json"));
  } catch (const ConfigError& error) {
    throw ConfigError(folder + error.what());
  }
  const std::filesystem::path generation_path = model_dir / "generation_config.json";
  std::error_code ec;
  if (!std::filesystem::exists(generation_path, ec)) return config;
  const json::value root = parse_json(read_text(generation_path), generation_path.string());
  try {
    const JsonFields generation(root.get_object(), "");
    append_unique(config.eos_token_ids,
                  generation.integer_list("eos_token_id", {0, config.vocab_size - 1}));
  } catch (const ConfigError& error) {
    std::string message = error.what();  // "config.json: eos_token_id ..."
    throw ConfigError(folder + "generation_" + message);
  }
  return config;
}

float softmax_scale(const ModelConfig& config) {
  double scale = 1.0 / std::sqrt(static_cast<double>(config.qk_head_dim()));
  if (config.rope_scaling) {
    const double magnitude =
        yarn_magnitude(config.rope_scaling->factor, config.rope_scaling->mscale_all_dim);
    scale *= magnitude * magnitude;
  }
  return static_cast<float>(scale);
}

std::vector<float> rope_frequencies(const ModelConfig& config) {
  const int32_t num_pairs = config.qk_rope_head_dim / 2;
  const double dim = config.qk_rope_head_dim;
  const double theta = config.rope_theta;
  double low = 0.0;
  double high = 0.0;
  if (config.rope_scaling) {
    const RopeScaling& scaling = *config.rope_scaling;
    // Index of the pair that turns beta times within the original window.
    const auto correction = [&](double beta) {
      const double window = scaling.original_max_position_embeddings;
      return dim * std::log(window / (2.0 * std::numbers::pi * beta)) / (2.0 * std::log(theta));
    };
    low = std::max(std::floor(correction(scaling.beta_fast)), 0.0);
    high = std::min(std::ceil(correction(scaling.beta_slow)), dim - 1.0);
    if (low == high) high += 0.001;
  }
  std::vector<float> frequencies(num_pairs);
  for (int32_t pair_idx = 0; pair_idx < num_pairs; ++pair_idx) {
    double frequency = std::pow(theta, -2.0 * pair_idx / dim);
    if (config.rope_scaling) {
      const double ramp = std::clamp((pair_idx - low) / (high - low), 0.0, 1.0);
      frequency = frequency * (1.0 - ramp) + frequency / double{config.rope_scaling->factor} * ramp;
    }
    frequencies[pair_idx] = static_cast<float>(frequency);
  }
  return frequencies;
}

float rope_magnitude(const ModelConfig& config) {
  if (!config.rope_scaling) return 1.0f;
  const RopeScaling& scaling = *config.rope_scaling;
  return static_cast<float>(yarn_magnitude(scaling.factor, scaling.mscale) /
                            yarn_magnitude(scaling.factor, scaling.mscale_all_dim));
}

}  // namespace tandem
