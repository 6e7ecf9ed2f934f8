#include "server/openai/text_request.h"

#include <fmt/format.h>

#include <algorithm>

#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/chat/prepared_chat.h"
#include "server/openai/answer_format.h"
#include "server/openai/generation_fields.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr int32_t kDefaultMaxTokens = 16;
constexpr size_t kMaxPrompts = 256;
constexpr std::string_view kExpectedPrompt = "a text, a list of token ids or a list of either";

Result<std::vector<int32_t>, ApiError> read_ids(const json::array& list,
                                                const std::string& path,
                                                const ServedModel& model) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const json::value& item : list) {
    const auto id = as_integer(item, 0, model.vocab_size - 1);
    if (!id) {
      return invalid_value(path, fmt::format("token ids from 0 to {}", model.vocab_size - 1),
                           json_excerpt(item));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

Result<std::vector<int32_t>, ApiError> read_prompt(const json::value& value,
                                                   const std::string& path,
                                                   const ServedModel& model) {
  if (value.is_array()) return read_ids(value.get_array(), path, model);
  if (!value.is_string()) return invalid_value(path, kExpectedPrompt, json_excerpt(value));
  return model.tokenizer->encode(as_view(value.get_string()), Tokenizer::Specials::kAsTokens);
}

void read_prompts(FieldReader& fields, const ServedModel& model, TextRequest& request) {
  const json::value* value = fields.find("prompt");
  if (value == nullptr) return fields.fail(invalid_value("prompt", kExpectedPrompt, "nothing"));
  const bool is_list =
      value->is_array() && !value->get_array().empty() && !value->get_array().front().is_number();
  const size_t num_prompts = is_list ? value->get_array().size() : 1;
  if (num_prompts > kMaxPrompts) {
    return fields.fail(invalid_value("prompt", fmt::format("at most {} prompts", kMaxPrompts),
                                     std::to_string(num_prompts)));
  }
  for (size_t prompt_idx = 0; prompt_idx < num_prompts; ++prompt_idx) {
    const std::string path = is_list ? fmt::format("prompt[{}]", prompt_idx) : "prompt";
    auto ids = read_prompt(is_list ? value->get_array()[prompt_idx] : *value, path, model);
    if (!ids) return fields.fail(ids.error());
    if (ids->empty()) return fields.fail(invalid_value(path, "at least one token", "none"));
    request.prompts.push_back(std::move(*ids));
  }
}

}  // namespace

Result<TextRequest, ApiError> parse_text_request(std::string_view body, const ServedModel& model) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  TextRequest request;
  RequestLimits limits = request_limits(model);
  limits.least_max_tokens = 0;
  read_generation_options(fields, limits, request);
  if (!request.max_tokens) request.max_tokens = kDefaultMaxTokens;
  read_prompts(fields, model, request);
  read_answer_format(fields, request);
  fields.read("echo", request.echo);
  read_num_logprobs(fields, "logprobs", limits, request.logprobs);
  if (fields.ok() && *request.max_tokens == 0 && !request.echo) {
    fields.fail(invalid_value("max_tokens", "at least 1, or echo: true beside it", "0"));
  }
  const auto best_of = fields.integer("best_of", 1, limits.max_n);
  if (best_of && *best_of != request.n) {
    fields.fail(unsupported("best_of", std::to_string(*best_of), "expected n"));
  }
  read_prompt_logprobs(fields, limits, request, request.prompt_logprobs);
  const auto suffix = fields.string("suffix");
  if (suffix && !suffix->empty()) {
    fields.fail(unsupported("suffix", "a text behind the answer", ""));
  }
  if (!fields.ok()) return *fields.error();
  if (!request.model.empty() && !is_served(model, request.model)) {
    return model_not_found(request.model);
  }
  return request;
}

}  // namespace tandem::server
