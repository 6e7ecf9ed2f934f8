// A request and an answer as the handlers see them: no sockets, no parser state.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace tandem::server {

enum class Method { kGet, kHead, kPost, kOptions, kOther };

// What the head of a request says. `path` is as sent (still percent-encoded), without the query.
struct HttpRequest {
  Method method = Method::kGet;
  std::string path;
  std::string query;
  std::string content_type;
  std::string authorization;
  std::string x_api_key;
  std::string origin;
  std::string upgrade;            // another protocol that is wanted: "websocket"
  std::string requested_headers;  // Access-Control-Request-Headers of a preflight
  std::string request_id;         // X-Request-Id, goes back with the answer
  std::string traceparent;        // the trace that the request belongs to
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::vector<std::pair<std::string, std::string>> headers;  // beside length, type and connection
  std::string body;
};

struct HeadOptions {
  int http_minor = 1;  // 0: HTTP/1.0
  bool keep_alive = true;
  bool chunked = false;  // no Content-Length; the body follows in chunks (or until close on 1.0)
};

// Status line and header fields, the empty line included.
std::string response_head(const HttpResponse& response, const HeadOptions& options);

std::string_view reason_phrase(int status);

// %XX decoded; a malformed escape stays as it is.
std::string percent_decode(std::string_view text);

// What is taken over from a client: 1 to 128 visible ASCII characters.
bool is_request_id(std::string_view text);

// True for no type at all, application/json and application/*+json, whatever the parameters.
// Others are refused, form types among them: a foreign web page can send those without preflight.
bool is_json_content_type(std::string_view content_type);

}  // namespace tandem::server
