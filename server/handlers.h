// The endpoints that answer at once. No sockets.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "server/chat/api_error.h"
#include "server/http/message.h"
#include "server/http/router.h"
#include "server/server_state.h"

namespace tandem::server {

// What can be answered from the head alone: OPTIONS, no such route or method, no key, wrong
// content type, no model yet, shutting down. Absent: read the body and go on.
std::optional<HttpResponse> refuse_early(const HttpRequest& request,
                                         const RouteMatch& route,
                                         const ServerState& state);

HttpResponse handle(Endpoint endpoint,
                    std::string_view parameter,
                    std::string_view body,
                    const ServerState& state);

}  // namespace tandem::server
