#include "server/http/cors.h"

#include <algorithm>

namespace tandem::server {
namespace {

bool is_loopback_origin(std::string_view origin) {
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (!origin.starts_with(scheme)) continue;
    const std::string_view authority = origin.substr(scheme.size());
    for (const std::string_view host : {"localhost", "127.0.0.1", "[::1]"}) {
      if (!authority.starts_with(host)) continue;
      const std::string_view port = authority.substr(host.size());
      if (port.empty()) return true;
      const bool digits =
          std::all_of(port.begin() + 1, port.end(), [](char c) { return c >= '0' && c <= '9'; });
      if (port.front() == ':' && port.size() > 1 && digits) return true;
    }
  }
  return false;
}

// What a page asks for goes back to it, when it is a list of header names.
bool is_header_list(std::string_view names) {
  return !names.empty() && names.size() <= 2048 &&
         std::all_of(names.begin(), names.end(), [](char c) {
           return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '-' || c == '_' || c == ',' || c == ' ';
         });
}

}  // namespace

bool allows_origin(const CorsPolicy& policy, std::string_view origin) {
  if (origin.empty()) return false;
  if (policy.loopback_origins && is_loopback_origin(origin)) return true;
  return std::any_of(policy.origins.begin(), policy.origins.end(), [&](const std::string& allowed) {
    return allowed == "*" || allowed == origin;
  });
}

void append_cors_headers(const CorsPolicy& policy,
                         const HttpRequest& request,
                         HttpResponse& response) {
  if (!allows_origin(policy, request.origin)) return;
  auto& headers = response.headers;
  headers.emplace_back("Access-Control-Allow-Origin", request.origin);
  headers.emplace_back("Vary", "Origin");
  headers.emplace_back("Access-Control-Expose-Headers", "X-Request-Id, Retry-After");
  if (request.method != Method::kOptions) return;
  headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
  headers.emplace_back("Access-Control-Allow-Headers",
                       is_header_list(request.requested_headers)
                           ? request.requested_headers
                           : "Authorization, Content-Type, X-Api-Key");
  headers.emplace_back("Access-Control-Max-Age", "600");
}

}  // namespace tandem::server
