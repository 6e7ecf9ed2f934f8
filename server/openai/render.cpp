#include "server/openai/render.h"

#include "server/chat/exchange.h"
#include "server/chat/sampling_text.h"
#include "server/http/json_writer.h"
#include "server/openai/chat_completion.h"
#include "server/openai/text_completion.h"

namespace tandem::server {
namespace {

void write_count(JsonWriter& json, int64_t count, int64_t none) {
  count == none ? json.null() : json.integer(count);
}

// Under vLLM's names. `generation` is of the first choice.
void write_generation(JsonWriter& json,
                      const GenerationOptions& options,
                      const GenerationRequest& generation) {
  const SamplingParams& sampling = generation.sampling;
  json.begin_object().key("n").integer(options.n);
  write_sampling(json, sampling);
  json.key("logit_bias").begin_object();
  for (const auto& [id, bias] : sampling.logit_bias)
    json.key(std::to_string(id)).number(static_cast<double>(bias));
  json.end_object();
  json.key("seed");
  sampling.seed ? json.integer(static_cast<int64_t>(*sampling.seed)) : json.null();
  json.key("max_tokens").integer(generation.max_new_tokens);
  json.key("min_tokens").integer(generation.min_new_tokens);
  json.key("ignore_eos").boolean(generation.ignore_eos);
  json.key("stop").begin_array();
  for (const std::string& stop : options.stop) json.string(stop);
  json.end_array();
  if (!options.stop_patterns.empty()) {
    json.key("stop_regex").begin_array();
    for (const auto& pattern : options.stop_patterns) json.string(pattern->text());
    json.end_array();
  }
  json.key("stop_token_ids");
  json.integers(generation.stop_token_ids);
  if (!options.allowed_token_ids.empty())
    json.key("allowed_token_ids").integers(options.allowed_token_ids);
  if (!options.bad_words.empty()) {
    json.key("bad_words").begin_array();
    for (const std::string& word : options.bad_words) json.string(word);
    json.end_array();
  }
  json.key("include_stop_str_in_output").boolean(options.include_stop_in_output);
  json.key("logprobs");
  write_count(json, generation.num_logprobs, -1);
  json.key("prompt_logprobs");
  generation.prompt_logprobs ? json.integer(generation.num_logprobs) : json.null();
  json.end_object();
}

void write_request(JsonWriter& json,
                   std::string_view id_prefix,
                   const GenerationOptions& options,
                   const GenerationRequest& generation,
                   const ServedModel& model) {
  json.begin_object();
  json.key("request_id").string(answer_id(id_prefix, options.request_id));
  json.key("model").string(options.model.empty() ? model.names.front() : options.model);
  json.key("prompt_text").string(model.tokenizer->decode(generation.prompt_ids));
  json.key("token_ids");
  json.integers(generation.prompt_ids);
  json.key("features").null();
  json.key("sampling_params");
  write_generation(json, options, generation);
  json.key("stream").boolean(options.stream);
  json.key("stream_options");
  if (options.stream) {
    json.begin_object().key("include_usage").boolean(options.include_usage);
    json.key("continuous_usage_stats").boolean(options.continuous_usage).end_object();
  } else {
    json.null();
  }
  json.key("cache_salt");
  options.cache_salt.empty() ? json.null() : json.string(options.cache_salt);
  json.key("priority").integer(options.priority);
  json.key("kv_transfer_params").null();
  json.end_object();
}

}  // namespace

Result<std::string, ApiError> render_chat_json(std::string_view body, const ServedModel& model) {
  const auto chat = prepare_chat(body, model);
  if (!chat) return chat.error();
  std::string out;
  JsonWriter json(out);
  write_request(json, "chatcmpl-", chat->request, generation_request(*chat, model, 0), model);
  return out;
}

Result<std::string, ApiError> render_text_json(std::string_view body, const ServedModel& model) {
  auto completion = make_text_completion(body, model);
  if (!completion) return completion.error();
  const TextRequest& request = (*completion)->request();
  const std::vector<GenerationRequest> choices = (*completion)->take_requests();
  std::string out;
  JsonWriter json(out);
  json.begin_array();
  for (size_t idx = 0; idx < choices.size(); idx += static_cast<size_t>(request.n))
    write_request(json, "cmpl-", request, choices[idx], model);
  json.end_array();
  return out;
}

}  // namespace tandem::server
