#include "server/openai/error_body.h"

#include "server/http/json_writer.h"

namespace tandem::server {

std::string error_json(const ApiError& error) {
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("error").begin_object();
  json.key("object").string("error");
  json.key("message").string(error.message);
  json.key("type").string(error.type);
  json.key("param");
  error.param.empty() ? json.null() : json.string(error.param);
  json.key("code");
  error.code.empty() ? json.null() : json.string(error.code);
  json.end_object().end_object();
  return out;
}

}  // namespace tandem::server
