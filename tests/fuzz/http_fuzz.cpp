// Targets, key headers, content types and strings of any bytes through what knows no sockets.
#include <boost/json/parse.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/check.h"
#include "server/http/api_keys.h"
#include "server/http/cors.h"
#include "server/http/json_writer.h"
#include "server/http/message.h"
#include "server/http/router.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::server;  // NOLINT(google-build-using-namespace)
  const std::string text(reinterpret_cast<const char*>(data), size);

  for (const Method method : {Method::kGet, Method::kPost, Method::kOther}) {
    const RouteMatch match = match_route(method, text);
    TANDEM_CHECK(!match.endpoint || !match.allow.empty(), "an endpoint without methods");
    TANDEM_CHECK(match.parameter.size() <= text.size(), "a parameter longer than its path");
  }
  static_cast<void>(is_json_content_type(text));
  TANDEM_CHECK(!is_request_id(text) || text.find_first_of("\r\n") == std::string::npos,
               "a request id that would end its header");

  HttpRequest preflight;
  preflight.method = Method::kOptions;
  preflight.origin = "http://localhost:" + text;
  preflight.requested_headers = text;
  HttpResponse response;
  append_cors_headers({.origins = {}, .loopback_origins = true}, preflight, response);
  for (const auto& [name, value] : response.headers) {
    TANDEM_CHECK(value.find_first_of("\r\n") == std::string::npos, "a header in a header");
  }

  const std::vector<std::string> keys = {"sk-key"};
  HttpRequest request;
  request.authorization = text;
  request.x_api_key = text;
  TANDEM_CHECK(is_authorized(request, keys) == (text == keys[0] || text.ends_with(" " + keys[0])) ||
                   !is_authorized(request, keys),
               "a key that is none");

  std::string quoted;
  append_json_string(quoted, text);
  TANDEM_CHECK(quoted.find('\n') == std::string::npos, "a line break in a frame");
  boost::system::error_code code;
  const boost::json::value value = boost::json::parse(quoted, code);
  TANDEM_CHECK(!code && value.is_string(), "a string that does not read back");
  return 0;
}
