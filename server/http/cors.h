// Which web pages may read our answers (Fetch standard, "CORS protocol").
#pragma once

#include <string>
#include <vector>

#include "server/http/message.h"

namespace tandem::server {

struct CorsPolicy {
  std::vector<std::string> origins;  // "https://example.org"; "*" for any
  bool loopback_origins = false;     // http(s)://localhost, 127.0.0.1 and [::1], whatever the port
};

[[nodiscard]] bool allows_origin(const CorsPolicy& policy, std::string_view origin);

// Nothing without an Origin or for one that is not allowed. Preflights (OPTIONS) also hear which
// methods and headers they may use.
void append_cors_headers(const CorsPolicy& policy,
                         const HttpRequest& request,
                         HttpResponse& response);

}  // namespace tandem::server
