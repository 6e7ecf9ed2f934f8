#include "server/http/router.h"

#include <array>

namespace tandem::server {
namespace {

constexpr std::array kRoutes = {
    Route{"/", Method::kGet, Endpoint::kRoot},
    Route{"/health", Method::kGet, Endpoint::kHealth},
    Route{"/health_generate", Method::kGet, Endpoint::kHealthGenerate},
    Route{"/version", Method::kGet, Endpoint::kVersion},
    Route{"/server_info", Method::kGet, Endpoint::kServerInfo},
    Route{"/get_server_info", Method::kGet, Endpoint::kServerInfo},
    Route{"/model_info", Method::kGet, Endpoint::kModelInfo},
    Route{"/get_model_info", Method::kGet, Endpoint::kModelInfo},
    Route{"/metrics", Method::kGet, Endpoint::kMetrics},
    Route{"/load", Method::kGet, Endpoint::kLoad},
    Route{"/get_load", Method::kGet, Endpoint::kSglangLoad},
    Route{"/openapi.json", Method::kGet, Endpoint::kOpenApi},
    Route{"/v1/models", Method::kGet, Endpoint::kModels},
    Route{"/v1/models/", Method::kGet, Endpoint::kModel},
    Route{"/v1/chat/completions", Method::kPost, Endpoint::kChatCompletions},
    Route{"/v1/completions", Method::kPost, Endpoint::kCompletions},
    Route{"/v1/chat/completions/render", Method::kPost, Endpoint::kRenderChat},
    Route{"/v1/completions/render", Method::kPost, Endpoint::kRenderText},
    Route{"/v1/responses", Method::kPost, Endpoint::kResponses},
    Route{"/v1/messages", Method::kPost, Endpoint::kMessages},
    Route{"/v1/messages/count_tokens", Method::kPost, Endpoint::kCountTokens},
    Route{"/tokenize", Method::kPost, Endpoint::kTokenize},
    Route{"/v1/tokenize", Method::kPost, Endpoint::kTokenize},
    Route{"/detokenize", Method::kPost, Endpoint::kDetokenize},
    Route{"/v1/detokenize", Method::kPost, Endpoint::kDetokenize},
    Route{"/apply-template", Method::kPost, Endpoint::kApplyTemplate},
    Route{"/tokenizer_info", Method::kGet, Endpoint::kTokenizerInfo},
    Route{"/abort_request", Method::kPost, Endpoint::kAbortRequest},
    Route{"/abort_requests", Method::kPost, Endpoint::kAbortRequest},
    Route{"/reset_prefix_cache", Method::kPost, Endpoint::kResetPrefixCache},
    Route{"/flush_cache", Method::kPost, Endpoint::kResetPrefixCache},
    Route{"/is_sleeping", Method::kGet, Endpoint::kIsSleeping},
    Route{"/sleep", Method::kPost, Endpoint::kSleep},
    Route{"/release_memory_occupation", Method::kPost, Endpoint::kSleep},
    Route{"/wake_up", Method::kPost, Endpoint::kWakeUp},
    Route{"/resume_memory_occupation", Method::kPost, Endpoint::kWakeUp},
};

bool matches(const Route& route, std::string_view path) {
  if (route.path.size() > 1 && route.path.ends_with('/')) {
    return path.size() > route.path.size() && path.starts_with(route.path);
  }
  return path == route.path;
}

}  // namespace

std::span<const Route> routes() { return kRoutes; }

RouteMatch match_route(Method method, std::string_view path) {
  RouteMatch match;
  if (path == "/v1/models/") path = "/v1/models";
  for (const Route& route : kRoutes) {
    if (!matches(route, path)) continue;
    match.allow += route.method == Method::kGet ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
    if (route.method != method && !(route.method == Method::kGet && method == Method::kHead)) break;
    match.endpoint = route.endpoint;
    match.path = route.path;
    if (route.path.size() > 1 && route.path.ends_with('/')) {
      match.parameter = percent_decode(path.substr(route.path.size()));
    }
    break;
  }
  return match;
}

bool is_open_endpoint(Endpoint endpoint) { return endpoint == Endpoint::kHealth; }

bool is_admin_endpoint(Endpoint endpoint) {
  return endpoint == Endpoint::kAbortRequest || endpoint == Endpoint::kResetPrefixCache ||
         is_sleep_order(endpoint);
}

bool is_sleep_order(Endpoint endpoint) {
  return endpoint == Endpoint::kSleep || endpoint == Endpoint::kWakeUp;
}

bool needs_model(Endpoint endpoint) {
  return endpoint != Endpoint::kRoot && endpoint != Endpoint::kHealth &&
         endpoint != Endpoint::kVersion && endpoint != Endpoint::kMetrics &&
         endpoint != Endpoint::kLoad && endpoint != Endpoint::kSglangLoad;
}

}  // namespace tandem::server
