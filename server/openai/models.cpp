#include "server/openai/models.h"

#include <fmt/chrono.h>

#include "server/http/json_writer.h"

namespace tandem::server {
namespace {

void write_model(JsonWriter& json, const ServedModel& model, std::string_view name) {
  json.begin_object();
  json.key("id").string(name);
  json.key("object").string("model");
  json.key("created").integer(model.created_unix_s);
  json.key("owned_by").string("tandem");
  json.key("root").string(model.names.front());
  json.key("parent").null();
  json.key("max_model_len").integer(model.max_context_tokens);
  // Anthropic's clients read the same list.
  json.key("type").string("model").key("display_name").string(name);
  json.key("created_at").string(fmt::format("{:%FT%TZ}", fmt::gmtime(model.created_unix_s)));
  json.end_object();
}

}  // namespace

std::string models_json(const ServedModel& model) {
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("object").string("list").key("data").begin_array();
  for (const std::string& name : model.names) write_model(json, model, name);
  json.end_array();
  json.key("has_more").boolean(false);
  json.key("first_id").string(model.names.front()).key("last_id").string(model.names.back());
  json.end_object();
  return out;
}

Result<std::string, ApiError> model_json(const ServedModel& model, std::string_view id) {
  if (!is_served(model, id)) return model_not_found(id);
  std::string out;
  JsonWriter json(out);
  write_model(json, model, id);
  return out;
}

}  // namespace tandem::server
