// Path and method to endpoint.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "server/http/message.h"

namespace tandem::server {

enum class Endpoint {
  kRoot,
  kHealth,
  kHealthGenerate,
  kVersion,
  kServerInfo,
  kModelInfo,
  kMetrics,
  kLoad,
  kSglangLoad,
  kOpenApi,
  kModels,
  kModel,  // parameter: the id, which may contain '/'
  kChatCompletions,
  kCompletions,
  kResponses,
  kMessages,
  kCountTokens,
  kTokenize,
  kDetokenize,
  kApplyTemplate,
  kRenderChat,
  kRenderText,
  kTokenizerInfo,
  kAbortRequest,
  kResetPrefixCache,
  kSleep,
  kWakeUp,
  kIsSleeping,
};

struct Route {
  std::string_view path;  // ends with '/': a prefix, the rest is the parameter
  Method method = Method::kGet;
  Endpoint endpoint = Endpoint::kRoot;
};

std::span<const Route> routes();  // all of them

struct RouteMatch {
  std::optional<Endpoint> endpoint;  // absent: 404, or 405 when `allow` is not empty
  std::string_view path;             // of the route, as the router has it; "" for none
  std::string parameter;             // percent-decoded
  std::string allow;                 // "GET, HEAD, OPTIONS": methods of a known path
};

// HEAD matches where GET does. OPTIONS matches no endpoint, but fills `allow`.
RouteMatch match_route(Method method, std::string_view path);

// Endpoints that need no key (a probe has none) and answer while the model loads.
bool is_open_endpoint(Endpoint endpoint);
bool needs_model(Endpoint endpoint);
// Endpoints that act on the requests of all clients: behind keys of their own where there are some.
bool is_admin_endpoint(Endpoint endpoint);
bool is_sleep_order(Endpoint endpoint);  // POST /sleep and /wake_up

}  // namespace tandem::server
