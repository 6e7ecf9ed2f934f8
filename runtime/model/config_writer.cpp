#include "runtime/model/config_writer.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cstdlib>

#include "runtime/base/errors.h"
#include "runtime/model/expert_tensors.h"

namespace tandem {

namespace json = boost::json;

namespace {

// The double with the fewest digits that is this float: 1e-05, not 9.999999747378752e-06.
double shortest(float value) { return std::strtod(fmt::format("{}", value).c_str(), nullptr); }

json::value eos_value(const ModelConfig& config) {
  if (config.eos_token_ids.empty()) return nullptr;
  if (config.eos_token_ids.size() == 1) return config.eos_token_ids.front();
  return json::array(config.eos_token_ids.begin(), config.eos_token_ids.end());
}

json::value id_value(int32_t token_id) {
  return token_id < 0 ? json::value(nullptr) : json::value(token_id);
}

json::object quantization() {
  const json::object weights = {{"actorder", nullptr},
                                {"block_structure", nullptr},
                                {"dynamic", false},
                                {"group_size", kInt4GroupSize},
                                {"num_bits", 4},
                                {"observer", "minmax"},
                                {"observer_kwargs", json::object()},
                                {"strategy", "group"},
                                {"symmetric", true},
                                {"type", "int"}};
  const json::object group = {{"input_activations", nullptr},
                              {"output_activations", nullptr},
                              {"targets", json::array{"Linear"}},
                              {"weights", weights}};
  return {{"config_groups", {{"group_0", group}}},
          {"format", "pack-quantized"},
          {"ignore",
           {"lm_head", "re:.*self_attn.*", "re:.*shared_experts.*",
            "re:.*mlp\\.(gate|up|gate_up|down)_proj.*"}},
          {"kv_cache_scheme", nullptr},
          {"quant_method", "compressed-tensors"},
          {"quantization_status", "compressed"}};
}

json::value rope(const ModelConfig& config) {
  if (!config.rope_scaling) return nullptr;
  const RopeScaling& scaling = *config.rope_scaling;
  return {{"beta_fast", shortest(scaling.beta_fast)},
          {"beta_slow", shortest(scaling.beta_slow)},
          {"factor", shortest(scaling.factor)},
          {"mscale", shortest(scaling.mscale)},
          {"mscale_all_dim", shortest(scaling.mscale_all_dim)},
          {"original_max_position_embeddings", scaling.original_max_position_embeddings},
          {"type", "yarn"}};
}

json::object model_object(const ModelConfig& config) {
  json::object root = {
      {"architectures", json::array{"DeepseekV3ForCausalLM"}},
      {"attention_bias", false},
      {"bos_token_id", id_value(config.bos_token_id)},
      {"eos_token_id", eos_value(config)},
      {"first_k_dense_replace", config.first_k_dense_replace},
      {"hidden_act", "silu"},
      {"hidden_size", config.hidden_size},
      {"intermediate_size", config.intermediate_size},
      {"kv_lora_rank", config.kv_lora_rank},
      {"max_position_embeddings", config.max_position_embeddings},
      {"model_type", config.model_type},
      {"moe_intermediate_size", config.moe_intermediate_size},
      {"moe_layer_freq", config.moe_layer_freq},
      {"n_group", config.n_group},
      {"n_routed_experts", config.n_routed_experts},
      {"n_shared_experts", config.n_shared_experts},
      {"norm_topk_prob", config.norm_topk_prob},
      {"num_attention_heads", config.num_attention_heads},
      {"num_experts_per_tok", config.num_experts_per_tok},
      {"num_hidden_layers", config.num_hidden_layers},
      {"num_key_value_heads", config.num_attention_heads},
      {"num_nextn_predict_layers", 0},
      {"pad_token_id", id_value(config.pad_token_id)},
      {"q_lora_rank", config.q_lora_rank == 0 ? json::value() : json::value(config.q_lora_rank)},
      {"qk_nope_head_dim", config.qk_nope_head_dim},
      {"qk_rope_head_dim", config.qk_rope_head_dim},
      {"rms_norm_eps", shortest(config.rms_norm_eps)},
      {"rope_scaling", rope(config)},
      {"rope_theta", shortest(config.rope_theta)},
      {"routed_scaling_factor", shortest(config.routed_scaling_factor)},
      {"scoring_func", "sigmoid"},
      {"tie_word_embeddings", config.tie_word_embeddings},
      {"topk_group", config.topk_group},
      {"topk_method", "noaux_tc"},
      {"torch_dtype", "bfloat16"},
      {"v_head_dim", config.v_head_dim},
      {"vocab_size", config.vocab_size}};
  if (config.experts_int4) root["quantization_config"] = quantization();
  return root;
}

// Indented as Hugging Face's tools write it.
void append_pretty(const json::value& value, int depth, std::string& text) {
  const std::string indent(static_cast<size_t>(2 * depth + 2), ' ');
  const std::string outer_indent(static_cast<size_t>(2 * depth), ' ');
  if (value.is_object() && !value.get_object().empty()) {
    const char* separator = "{\n";
    for (const auto& item : value.get_object()) {
      text += separator + indent + json::serialize(item.key()) + ": ";
      append_pretty(item.value(), depth + 1, text);
      separator = ",\n";
    }
    text += "\n" + outer_indent + "}";
  } else if (value.is_array() && !value.get_array().empty()) {
    const char* separator = "[\n";
    for (const json::value& item : value.get_array()) {
      text += separator + indent;
      append_pretty(item, depth + 1, text);
      separator = ",\n";
    }
    text += "\n" + outer_indent + "]";
  } else if (value.is_double()) {
    text += fmt::format("{}", value.get_double());  // shortest; serialize() prints 5E4
  } else {
    text += json::serialize(value);
  }
}

std::string pretty(const json::value& value) {
  std::string text;
  append_pretty(value, 0, text);
  return text + "\n";
}

}  // namespace

std::string config_text(const ModelConfig& config) {
  if (config.tensor_prefix.empty()) return pretty(model_object(config));
  if (config.tensor_prefix != "language_model.") {
    throw ConfigError(fmt::format("tensor_prefix is \"{}\", expected \"\" or \"language_model.\"",
                                  config.tensor_prefix));
  }
  return pretty({{"architectures", json::array{"KimiK25ForConditionalGeneration"}},
                 {"model_type", "kimi_k25"},
                 {"text_config", model_object(config)},
                 {"torch_dtype", "bfloat16"}});
}

std::string generation_config_text(const ModelConfig& config) {
  return pretty(
      {{"max_length", config.max_position_embeddings}, {"eos_token_id", eos_value(config)}});
}

}  // namespace tandem
