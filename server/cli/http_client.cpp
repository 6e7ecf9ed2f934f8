#include "server/cli/http_client.h"

#include <fmt/format.h>
#include <sys/socket.h>

#include <array>
#include <boost/asio/connect.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/url/parse.hpp>
#include <boost/url/url_view.hpp>
#include <charconv>
#include <cstdint>
#include <utility>

#include "runtime/base/errors.h"

namespace tandem::cli {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

// Publishes the socket to cancel() while a request runs.
class PublishedSocket {
 public:
  PublishedSocket(std::atomic<int>& slot, int fd) : slot_(slot) { slot_ = fd; }
  ~PublishedSocket() { slot_ = -1; }
  PublishedSocket(const PublishedSocket&) = delete;
  PublishedSocket& operator=(const PublishedSocket&) = delete;

 private:
  std::atomic<int>& slot_;
};

http::request<http::string_body> make_request(const ServerUrl& url,
                                              const std::string& api_key,
                                              const std::string& method,
                                              const std::string& path,
                                              const std::string& json) {
  http::request<http::string_body> request;
  request.method(method == "GET" ? http::verb::get : http::verb::post);
  request.target(url.base_path + path);
  request.set(http::field::host, url.authority());
  request.set(http::field::user_agent, "tandem-chat");
  request.set(http::field::connection, "close");
  if (!api_key.empty()) request.set(http::field::authorization, "Bearer " + api_key);
  if (!json.empty()) {
    request.set(http::field::content_type, "application/json");
    request.body() = json;
  }
  request.prepare_payload();
  return request;
}

asio::ip::tcp::socket connect(asio::io_context& context, const ServerUrl& url) {
  error_code ec;
  asio::ip::tcp::resolver resolver(context);
  const auto endpoints = resolver.resolve(url.host, url.port, ec);
  if (ec) throw HttpError("cannot find " + url.host + ": " + ec.message());
  asio::ip::tcp::socket socket(context);
  asio::connect(socket, endpoints, ec);
  if (ec)
    throw HttpError("cannot reach " + url.text() + ": " + ec.message() +
                    " (is a server running there? `tandem serve` starts one)");
  return socket;
}

}  // namespace

std::string ServerUrl::text() const { return "http://" + authority() + base_path; }

std::string ServerUrl::authority() const {
  const bool is_ipv6 = host.find(':') != std::string::npos;
  return (is_ipv6 ? "[" + host + "]" : host) + ":" + port;
}

ServerUrl parse_server_url(const std::string& text) {
  const auto bad = [&](const std::string& why) {
    return ConfigError("--url " + text + ": " + why + "; expected http://HOST:PORT");
  };
  const std::string full = text.find("://") == std::string::npos ? "http://" + text : text;
  const auto parsed = boost::urls::parse_uri(full);
  if (!parsed) throw bad("not a URL");
  if (parsed->scheme() == "https") throw bad("TLS is not spoken by this client");
  if (parsed->scheme() != "http") throw bad("not an http URL");
  if (parsed->host().empty()) throw bad("no host in it");
  const std::string_view port(parsed->port().data(), parsed->port().size());
  uint16_t port_number = 0;  // the library's own is whatever remains of more digits
  std::from_chars(port.data(), port.data() + port.size(), port_number);
  if (!port.empty() && port_number == 0) {
    throw bad(fmt::format("port {} is none from 1 to 65535", port));
  }
  ServerUrl url;
  url.host =
      parsed->host_name().empty() ? std::string(parsed->host_address()) : parsed->host_name();
  url.port = port.empty() ? "80" : std::string(port);
  url.base_path = std::string(parsed->encoded_path());
  const auto drop_slashes = [&] {
    while (!url.base_path.empty() && url.base_path.back() == '/') url.base_path.pop_back();
  };
  drop_slashes();
  if (url.base_path.size() >= 3 && url.base_path.compare(url.base_path.size() - 3, 3, "/v1") == 0)
    url.base_path.resize(url.base_path.size() - 3);
  drop_slashes();
  return url;
}

HttpClient::HttpClient(ServerUrl url, std::string api_key)
    : url_(std::move(url)), api_key_(std::move(api_key)) {}

HttpReply HttpClient::get(const std::string& path) { return send("GET", path, "", nullptr); }

HttpReply HttpClient::post_stream(const std::string& path,
                                  const std::string& json,
                                  const std::function<void(std::string_view)>& on_piece) {
  return send("POST", path, json, on_piece);
}

HttpReply HttpClient::send(const std::string& method,
                           const std::string& path,
                           const std::string& json,
                           const std::function<void(std::string_view)>& on_piece) {
  cancelled_ = false;
  asio::io_context context;
  asio::ip::tcp::socket socket = connect(context, url_);
  socket.set_option(asio::ip::tcp::no_delay(true));
  const PublishedSocket published(socket_fd_, socket.native_handle());
  HttpReply reply;
  error_code ec;
  const auto failed = [&](const char* doing) {
    if (cancelled_) {
      reply.cancelled = true;
      return true;
    }
    if (ec) throw HttpError(url_.text() + " went away while " + doing + ": " + ec.message());
    return false;
  };

  // cancel() may have come before there was a socket to cut.
  if (!cancelled_) http::write(socket, make_request(url_, api_key_, method, path, json), ec);
  if (failed("it was asked")) return reply;
  boost::beast::flat_buffer buffer;
  http::response_parser<http::buffer_body> parser;
  parser.body_limit(boost::none);
  http::read_header(socket, buffer, parser, ec);
  if (failed("it was to answer")) return reply;
  reply.status = static_cast<int>(parser.get().result_int());
  const bool stream = on_piece && reply.status == 200;
  std::array<char, 16384> piece{};
  while (!parser.is_done()) {
    parser.get().body().data = piece.data();
    parser.get().body().size = piece.size();
    http::read_some(socket, buffer, parser, ec);
    if (ec == http::error::need_buffer) ec = {};
    if (failed("answering")) return reply;
    const std::string_view text(piece.data(), piece.size() - parser.get().body().size);
    if (text.empty()) continue;
    if (stream) {
      on_piece(text);
    } else {
      reply.body += text;
    }
  }
  return reply;
}

void HttpClient::cancel() noexcept {
  cancelled_ = true;
  const int fd = socket_fd_;
  if (fd >= 0) ::shutdown(fd, SHUT_RDWR);
}

}  // namespace tandem::cli
