#include "server/anthropic/error_body.h"

#include <fmt/format.h>

#include "server/http/json_writer.h"

namespace tandem::server {
namespace {

std::string_view error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 413:
      return "request_too_large";
    case 429:
      return "rate_limit_error";
    case 503:
      return "overloaded_error";
    default:
      return status >= 500 ? "api_error" : "invalid_request_error";
  }
}

std::string message_of(const ApiError& error) {
  if (!error.overflow) return error.message;
  return fmt::format("prompt is too long: {} tokens > {} maximum", error.overflow->prompt_tokens,
                     error.overflow->max_context_tokens);
}

}  // namespace

std::string anthropic_error_json(const ApiError& error) {
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("type").string("error");
  json.key("error").begin_object();
  json.key("type").string(error_type(error.status));
  json.key("message").string(message_of(error));
  if (error.code == "thread_unsupported_request") {
    json.key("details").begin_object().key("error_code").string(error.code).end_object();
  }
  json.end_object().end_object();
  return out;
}

}  // namespace tandem::server
