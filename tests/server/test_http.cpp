#include <catch2/catch_test_macros.hpp>
#include <string>
#include <vector>

#include "server/http/api_keys.h"
#include "server/http/message.h"
#include "server/http/router.h"

namespace tandem::server {
namespace {

TEST_CASE("routes are told by method and path", "[server][http]") {
  CHECK(match_route(Method::kPost, "/v1/chat/completions").endpoint == Endpoint::kChatCompletions);
  CHECK(match_route(Method::kGet, "/health").endpoint == Endpoint::kHealth);
  CHECK(match_route(Method::kHead, "/health").endpoint == Endpoint::kHealth);
  CHECK(match_route(Method::kGet, "/v1/models").endpoint == Endpoint::kModels);
  CHECK(match_route(Method::kGet, "/v1/models/").endpoint == Endpoint::kModels);
  CHECK(match_route(Method::kPost, "/v1/tokenize").endpoint == Endpoint::kTokenize);

  const RouteMatch model = match_route(Method::kGet, "/v1/models/org/name%20x%2F%zz");
  CHECK(model.endpoint == Endpoint::kModel);
  CHECK(model.parameter == "org/name x/%zz");
}

TEST_CASE("an unknown path has no methods, a known one names them", "[server][http]") {
  for (const char* path : {"", "/v1", "/v1/chat/completions/", "/healthy", "//", "*"}) {
    INFO(path);
    const RouteMatch match = match_route(Method::kGet, path);
    CHECK_FALSE(match.endpoint);
    CHECK(match.allow.empty());
  }
  const RouteMatch wrong = match_route(Method::kGet, "/v1/chat/completions");
  CHECK_FALSE(wrong.endpoint);
  CHECK(wrong.allow == "POST, OPTIONS");
  CHECK(match_route(Method::kOther, "/v1/models/a").allow == "GET, HEAD, OPTIONS");
}

TEST_CASE("a key is taken from either header, and only a whole one", "[server][http]") {
  const std::vector<std::string> keys = {"sk-one", "sk-second"};
  const auto allowed = [&](std::string authorization, std::string x_api_key) {
    HttpRequest request;
    request.authorization = std::move(authorization);
    request.x_api_key = std::move(x_api_key);
    return is_authorized(request, keys);
  };
  CHECK(allowed("Bearer sk-one", ""));
  CHECK(allowed("bearer sk-second", ""));
  CHECK(allowed("", "sk-second"));
  CHECK(allowed("Bearer wrong", "sk-one"));
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer sk-on", "Bearer sk-onesk-one",
                            "Bearer sk-one ", "Basic sk-one", "sk-one", "Bearer sk-onf"}) {
    INFO(wrong);
    CHECK_FALSE(allowed(wrong, ""));
  }
  CHECK_FALSE(allowed("", "SK-ONE"));
  CHECK(is_authorized({}, {}));
}

TEST_CASE("only JSON content types pass", "[server][http]") {
  for (const char* type :
       {"", "application/json", "Application/JSON; charset=utf-8", "application/vnd.api+json"}) {
    INFO(type);
    CHECK(is_json_content_type(type));
  }
  for (const char* type : {"text/plain", "application/x-www-form-urlencoded", "multipart/form-data",
                           "text/plain; application/json", "json"}) {
    INFO(type);
    CHECK_FALSE(is_json_content_type(type));
  }
}

TEST_CASE("a response head has length or chunks, and never both", "[server][http]") {
  HttpResponse response;
  response.body = "{}";
  response.headers.emplace_back("Allow", "GET");
  const std::string plain = response_head(response, {});
  CHECK(plain.starts_with("HTTP/1.1 200 OK\r\n"));
  CHECK(plain.find("Content-Length: 2\r\n") != std::string::npos);
  CHECK(plain.find("Allow: GET\r\n") != std::string::npos);
  CHECK(plain.ends_with("Connection: keep-alive\r\n\r\n"));
  const std::string chunked = response_head(response, {.keep_alive = false, .chunked = true});
  CHECK(chunked.find("Transfer-Encoding: chunked\r\n") != std::string::npos);
  CHECK(chunked.find("Content-Length") == std::string::npos);
  CHECK(chunked.ends_with("Connection: close\r\n\r\n"));
  const std::string old = response_head(response, {.http_minor = 0, .chunked = true});
  CHECK(old.starts_with("HTTP/1.0 200 OK\r\n"));
  CHECK(old.find("chunked") == std::string::npos);
}

}  // namespace
}  // namespace tandem::server
