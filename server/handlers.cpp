#include "server/handlers.h"

#include <fmt/format.h>

#include <exception>
#include <vector>

#include "server/anthropic/messages_exchange.h"
#include "server/chat/json_fields.h"
#include "server/dialects.h"
#include "server/http/api_keys.h"
#include "server/http/json_writer.h"
#include "server/openai/models.h"
#include "server/openai/render.h"
#include "server/openai/tokenize.h"
#include "server/openapi.h"
#include "server/server_info.h"

namespace tandem::server {
namespace {

HttpResponse json_response(std::string body) {
  HttpResponse response;
  response.body = std::move(body);
  return response;
}

HttpResponse to_response(Result<std::string, ApiError> result, const Dialect& dialect) {
  return result ? json_response(std::move(*result)) : error_response(result.error(), dialect);
}

std::string_view health_status(const ServerState& state) {
  switch (state.phase()) {
    case ServerState::Phase::kLoading:
      return "loading";
    case ServerState::Phase::kFailed:
      return "failed";
    case ServerState::Phase::kReady:
      break;
  }
  const EngineStats stats = state.engine().stats();
  if (stats.failed) return "failed";
  if (state.draining) return "draining";
  return stats.sleep_state == SleepState::kAwake ? "ok" : "sleeping";
}

std::string_view name_of(SleepState state) {
  switch (state) {
    case SleepState::kAwake:
      return "awake";
    case SleepState::kFallingAsleep:
      return "falling_asleep";
    case SleepState::kAsleep:
      return "asleep";
    case SleepState::kWaking:
      return "waking";
  }
  return "";
}

HttpResponse health(const ServerState& state) {
  const std::string_view status = health_status(state);
  HttpResponse response;
  JsonWriter json(response.body);
  json.begin_object().key("status").string(status);
  if (status == "loading") json.key("progress").number(state.loading_progress);
  if (status == "failed") {
    const std::string message = state.failure();
    json.key("message").string(message.empty() ? "the engine failed" : message);
  }
  if (state.phase() == ServerState::Phase::kReady) {
    const EngineStats stats = state.engine().stats();
    json.key("sleep_state").string(name_of(stats.sleep_state));
    if (stats.sleep_state == SleepState::kWaking)
      json.key("progress").number(stats.waking_progress);
    json.key("num_running").integer(stats.num_running);
    json.key("num_waiting").integer(stats.num_waiting);
    json.key("kv_pages_used").integer(stats.kv_pages_used);
    json.key("kv_pages_total").integer(stats.kv_pages_total);
  }
  json.end_object();
  // Nothing is wrong with a server that was put to sleep: what restarts sick ones leaves it alone.
  if (status != "ok" && status != "sleeping") {
    response.status = 503;
    if (status == "loading") response.headers.emplace_back("Retry-After", "5");
  }
  return response;
}

// What a balancer goes by: requests that the engine has.
HttpResponse load(const ServerState& state) {
  int64_t num_requests = 0;
  if (state.phase() == ServerState::Phase::kReady) {
    const EngineStats stats = state.engine().stats();
    num_requests = stats.num_running + stats.num_waiting;
  }
  return json_response(fmt::format("{{\"server_load\":{}}}", num_requests));
}

HttpResponse metrics(const ServerState& state) {
  std::optional<EngineStats> engine;
  if (state.phase() == ServerState::Phase::kReady) engine = state.engine().stats();
  HttpResponse response;
  response.content_type = "text/plain; version=0.0.4; charset=utf-8";
  response.body = state.metrics->text(engine);
  return response;
}

std::string root_json() {
  std::string out;
  JsonWriter json(out);
  json.begin_object().key("name").string("tandem").key("version").string(TANDEM_VERSION);
  json.key("endpoints").begin_array();
  for (const Route& route : routes()) {
    json.string((route.method == Method::kGet ? "GET " : "POST ") + std::string(route.path));
  }
  json.end_array().end_object();
  return out;
}

HttpResponse no_route(const HttpRequest& request, const RouteMatch& route) {
  const std::string_view path = std::string_view(request.path).substr(0, 200);
  ApiError error;
  if (route.allow.empty()) {
    error.status = 404;
    error.message = fmt::format("There is no {}; GET / lists the endpoints.", path);
    error.code = "not_found";
  } else if (!request.upgrade.empty()) {
    // Codex takes this for "no websockets here" and posts from then on (serving/clients.md).
    error.status = 426;
    error.message = fmt::format("{} speaks plain HTTP only: {}.", path, route.allow);
    error.code = "upgrade_not_supported";
  } else {
    error.status = 405;
    error.message = fmt::format("{} allows {}.", path, route.allow);
    error.code = "method_not_allowed";
  }
  HttpResponse response = error_response(error);
  if (!route.allow.empty()) response.headers.emplace_back("Allow", route.allow);
  if (error.status == 426) {  // RFC 9110, 15.5.22
    response.headers.emplace_back("Upgrade", "HTTP/1.1");
    response.headers.emplace_back("Connection", "Upgrade");
  }
  return response;
}

ApiError unauthorized() {
  ApiError error;
  error.status = 401;
  error.message =
      "A key is needed: send 'Authorization: Bearer KEY' or 'x-api-key: KEY' with a key of this "
      "server.";
  error.type = "authentication_error";
  error.code = "invalid_api_key";
  return error;
}

// A page of any origin may have its browser post without a type, and without asking us before; it
// cannot read the answer, but a model would be asleep by then.
bool is_order_of_foreign_page(const HttpRequest& request, const CorsPolicy& cors) {
  return request.method == Method::kPost && request.content_type.empty() &&
         !request.origin.empty() && !allows_origin(cors, request.origin);
}

ApiError foreign_page(std::string_view origin) {
  ApiError error;
  error.status = 403;
  error.message = fmt::format(
      "Origin: pages of {} may not post here without a Content-Type; --cors-origin allows it.",
      origin.substr(0, 200));
  error.type = "permission_error";
  error.code = "forbidden_origin";
  return error;
}

std::optional<ApiError> unavailable(Endpoint endpoint, const ServerState& state) {
  switch (state.phase()) {
    case ServerState::Phase::kLoading:
      return server_error(503,
                          fmt::format("The model is being loaded ({:.0f} %).",
                                      100.0 * state.loading_progress.load()),
                          "model_loading");
    case ServerState::Phase::kFailed:
      return server_error(503, "The model failed: " + state.failure(), "model_failed");
    case ServerState::Phase::kReady:
      break;
  }
  // A drain may be waiting for the very answer that is to be aborted.
  if (state.draining && (!is_admin_endpoint(endpoint) || is_sleep_order(endpoint)))
    return server_error(503, "The server is shutting down.", "shutting_down");
  if (dialect_of(endpoint).open != nullptr) {
    if (const auto asleep = state.engine().sleep_refusal()) return from_submit_error(*asleep);
  }
  return std::nullopt;
}

bool has_key_for(std::optional<Endpoint> endpoint,
                 const HttpRequest& request,
                 const ServerOptions& options) {
  if (endpoint && is_open_endpoint(*endpoint)) return true;
  const bool is_admin =
      !options.admin_api_keys.empty() && is_authorized(request, options.admin_api_keys);
  const bool needs_admin = endpoint && is_admin_endpoint(*endpoint);
  if (is_admin || (needs_admin && !options.admin_api_keys.empty())) return is_admin;
  return is_authorized(request, options.api_keys);
}

struct AbortRequest {
  std::vector<std::string> names;
  bool all = false;
};

// {"rid": "..."} of SGLang, {"request_ids": [...]}, {"abort_all": true}.
Result<AbortRequest, ApiError> parse_abort_request(std::string_view body) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  AbortRequest request;
  std::vector<std::string>& names = request.names;
  if (const auto id = fields.string("rid")) names.emplace_back(*id);
  const boost::json::array* ids = fields.array("request_ids");
  if (ids != nullptr) {
    for (const boost::json::value& id : *ids) {
      if (!id.is_string()) {
        fields.fail_value("request_ids", "a list of strings", id);
        break;
      }
      names.emplace_back(as_view(id.get_string()));
    }
  }
  request.all = fields.boolean("abort_all").value_or(false);
  if (fields.ok() && names.empty() && ids == nullptr && !request.all) {
    fields.fail(
        invalid_value("request_ids", "a list of ids, or rid, or abort_all: true", "nothing"));
  }
  if (!fields.ok()) return *fields.error();
  return request;
}

Result<std::string, ApiError> abort_requests(std::string_view body, const ServerState& state) {
  const auto request = state.unknown_keys().judged([&] { return parse_abort_request(body); });
  if (!request) return request.error();
  int64_t num_aborted = request->all ? state.answers().abort_all(state.engine()) : 0;
  for (const std::string& name : request->names)
    num_aborted += state.answers().abort(name, state.engine());
  return fmt::format("{{\"num_aborted\":{}}}", num_aborted);
}

std::string is_sleeping_json(const ServerState& state) {
  return fmt::format("{{\"is_sleeping\":{}}}", is_sleeping(state.engine().stats().sleep_state));
}

std::string reset_prefix_cache(const ServerState& state) {
  state.engine().reset_prefix_cache();
  return "{\"success\":true}";
}

// Of an endpoint whose body has keys.
using BodyReader = Result<std::string, ApiError> (*)(std::string_view body,
                                                     const ServedModel& model);
HttpResponse answer_body(BodyReader read,
                         std::string_view body,
                         const ServerState& state,
                         const Dialect& dialect) {
  return to_response(state.unknown_keys().judged([&] { return read(body, state.model()); }),
                     dialect);
}

}  // namespace

std::optional<HttpResponse> refuse_early(const HttpRequest& request,
                                         const RouteMatch& route,
                                         const ServerState& state) {
  if (request.method == Method::kOptions) {
    HttpResponse response;
    response.status = 204;
    response.headers.emplace_back("Allow",
                                  route.allow.empty() ? "GET, HEAD, POST, OPTIONS" : route.allow);
    return response;
  }
  const Dialect& dialect = dialect_of(route.endpoint);
  if (!has_key_for(route.endpoint, request, state.options)) {
    return error_response(unauthorized(), dialect);
  }
  if (!route.endpoint) return no_route(request, route);
  if (is_order_of_foreign_page(request, state.options.cors)) {
    return error_response(foreign_page(request.origin), dialect);
  }
  if (request.method == Method::kPost && !is_json_content_type(request.content_type)) {
    ApiError error = invalid_value("Content-Type", "application/json", request.content_type);
    error.status = 415;
    error.code = "unsupported_media_type";
    return error_response(error, dialect);
  }
  if (needs_model(*route.endpoint)) {
    if (const auto error = unavailable(*route.endpoint, state))
      return error_response(*error, dialect);
  }
  return std::nullopt;
}

HttpResponse handle(Endpoint endpoint,
                    std::string_view parameter,
                    std::string_view body,
                    const ServerState& state) {
  const Dialect& dialect = dialect_of(endpoint);
  try {
    switch (endpoint) {
      case Endpoint::kRoot:
        return json_response(root_json());
      case Endpoint::kHealth:
        return health(state);
      case Endpoint::kVersion:
        return json_response("{\"version\":\"" TANDEM_VERSION "\"}");
      case Endpoint::kServerInfo:
        return json_response(server_info_json(state));
      case Endpoint::kModelInfo:
        return json_response(model_info_json(state));
      case Endpoint::kMetrics:
        return metrics(state);
      case Endpoint::kLoad:
        return load(state);
      case Endpoint::kSglangLoad:
        return json_response(sglang_load_json(state));
      case Endpoint::kOpenApi:
        return json_response(openapi_json(state));
      case Endpoint::kModels:
        return json_response(models_json(state.model()));
      case Endpoint::kModel:
        return to_response(model_json(state.model(), parameter), dialect);
      case Endpoint::kTokenize:
        return answer_body(tokenize_json, body, state, dialect);
      case Endpoint::kDetokenize:
        return answer_body(detokenize_json, body, state, dialect);
      case Endpoint::kApplyTemplate:
        return answer_body(apply_template_json, body, state, dialect);
      case Endpoint::kRenderChat:
        return answer_body(render_chat_json, body, state, dialect);
      case Endpoint::kRenderText:
        return answer_body(render_text_json, body, state, dialect);
      case Endpoint::kCountTokens:
        return answer_body(count_tokens_json, body, state, dialect);
      case Endpoint::kTokenizerInfo:
        return json_response(tokenizer_info_json(state.model()));
      case Endpoint::kAbortRequest:
        return to_response(abort_requests(body, state), dialect);
      case Endpoint::kResetPrefixCache:
        return json_response(reset_prefix_cache(state));
      case Endpoint::kIsSleeping:
        return json_response(is_sleeping_json(state));
      case Endpoint::kSleep:
      case Endpoint::kWakeUp:
        break;  // sleep_handler
      case Endpoint::kChatCompletions:
      case Endpoint::kCompletions:
      case Endpoint::kResponses:
      case Endpoint::kMessages:
      case Endpoint::kHealthGenerate:
        break;  // exchanges
    }
  } catch (const std::exception& failure) {
    return error_response(server_error(500, failure.what(), "internal_error"), dialect);
  }
  return error_response(server_error(500, "no handler", "internal_error"), dialect);
}

}  // namespace tandem::server
