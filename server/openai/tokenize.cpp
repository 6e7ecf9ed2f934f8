#include "server/openai/tokenize.h"

#include <fmt/format.h>

#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/chat/prepared_chat.h"
#include "server/http/json_writer.h"
#include "server/openai/chat_request.h"

namespace tandem::server {
namespace {

Result<RenderedPrompt, ApiError> render(FieldReader& fields, const ServedModel& model) {
  auto request = read_chat_request(fields, request_limits(model));
  if (!request) return request.error();
  return render_request(*request, model);
}

}  // namespace

Result<std::string, ApiError> tokenize_json(std::string_view body, const ServedModel& model) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  const auto prompt = fields.string("prompt");
  static_cast<void>(fields.boolean("add_special_tokens"));  // the tokenizer adds none
  fields.ignore({"model"});
  const bool with_strings = fields.boolean("return_token_strs").value_or(false);
  if (!fields.ok()) return *fields.error();

  std::vector<int32_t> ids;
  if (prompt) {
    ids = model.tokenizer->encode(*prompt, Tokenizer::Specials::kAsTokens);
  } else if (fields.find("messages") != nullptr) {
    auto rendered = render(fields, model);
    if (!rendered) return rendered.error();
    ids = std::move(rendered->ids);
  } else {
    return invalid_value("prompt", "a string, or messages in its place", "nothing");
  }
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("count").integer(static_cast<int64_t>(ids.size()));
  json.key("max_model_len").integer(model.max_context_tokens);
  json.key("tokens");
  json.integers(ids);
  if (with_strings) {
    json.key("token_strs").begin_array();
    for (const int32_t id : ids) json.string(model.tokenizer->token_bytes(id));
    json.end_array();
  }
  json.end_object();
  return out;
}

Result<std::string, ApiError> detokenize_json(std::string_view body, const ServedModel& model) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  const boost::json::array* tokens = fields.array("tokens");
  fields.ignore({"model"});
  if (!fields.ok()) return *fields.error();
  if (tokens == nullptr) return invalid_value("tokens", "a list of token ids", "nothing");
  std::vector<int32_t> ids;
  ids.reserve(tokens->size());
  const int32_t last_id = model.tokenizer->vocab_size() - 1;
  for (const boost::json::value& token : *tokens) {
    const auto id = as_integer(token, 0, last_id);
    if (!id) {
      return invalid_value("tokens", fmt::format("token ids from 0 to {}", last_id),
                           json_excerpt(token));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("prompt").string(model.tokenizer->decode(ids)).end_object();
  return out;
}

Result<std::string, ApiError> apply_template_json(std::string_view body, const ServedModel& model) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  auto rendered = render(fields, model);
  if (!rendered) return rendered.error();
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("prompt").string(rendered->text);
  json.key("count").integer(static_cast<int64_t>(rendered->ids.size()));
  json.key("tokens");
  json.integers(rendered->ids);
  json.end_object();
  return out;
}

std::string tokenizer_info_json(const ServedModel& model) {
  const Tokenizer& tokenizer = *model.tokenizer;
  const SpecialTokens& specials = tokenizer.specials();
  std::string out;
  JsonWriter json(out);
  json.begin_object();
  json.key("tokenizer_class").string("TikTokenTokenizer");
  const auto write_token = [&](std::string_view name, int32_t id) {
    if (id >= 0) json.key(name).string(tokenizer.token_bytes(id));
  };
  write_token("bos_token", specials.bos);
  write_token("eos_token", specials.eos);
  write_token("pad_token", specials.pad);
  write_token("unk_token", specials.unk);
  json.key("vocab_size").integer(tokenizer.vocab_size());
  json.key("model_max_length").integer(model.max_context_tokens);
  json.end_object();
  return out;
}

}  // namespace tandem::server
