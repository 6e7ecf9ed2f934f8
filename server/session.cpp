#include "server/session.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/rfc7230.hpp>

#include "server/exchange_handler.h"
#include "server/handlers.h"
#include "server/http/cors.h"
#include "server/http/sse.h"
#include "server/sleep_handler.h"
#include "server/token_channel.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);
constexpr size_t kReadSize = 16 << 10;
constexpr size_t kMaxBufferBytes = 256 << 10;    // bounds chunk extensions and trailers
constexpr size_t kMaxPipelinedBytes = 64 << 10;  // beyond, a client that left is found on writing
constexpr std::chrono::seconds kLingerTime{2};
constexpr size_t kMaxLingerBytes = 16 << 20;
constexpr int64_t kMinBodyBytesPerSecond = 4 << 10;  // on average, beside body_timeout

Method to_method(http::verb verb) {
  switch (verb) {
    case http::verb::get:
      return Method::kGet;
    case http::verb::head:
      return Method::kHead;
    case http::verb::post:
      return Method::kPost;
    case http::verb::options:
      return Method::kOptions;
    default:
      return Method::kOther;
  }
}

std::string_view method_name(Method method) {
  switch (method) {
    case Method::kGet:
      return "GET";
    case Method::kHead:
      return "HEAD";
    case Method::kPost:
      return "POST";
    case Method::kOptions:
      return "OPTIONS";
    case Method::kOther:
      break;
  }
  return "other";
}

// What cannot break a line of the log or pose as another.
std::string printable(std::string_view path) {
  constexpr size_t kMaxChars = 200;
  std::string text(path.substr(0, kMaxChars));
  std::replace_if(
      text.begin(), text.end(), [](char c) { return c <= ' ' || c == '"' || c > '~'; }, '?');
  return text;
}

template <typename Head>
HttpRequest to_request(const Head& head) {
  const auto field = [&](auto name) {
    const auto value = head[name];
    return std::string(value.data(), value.size());
  };
  HttpRequest request;
  request.method = to_method(head.method());
  std::string target(head.target().data(), head.target().size());
  const size_t query_begin = target.find('?');
  if (query_begin != std::string::npos) {
    request.query = target.substr(query_begin + 1);
    target.resize(query_begin);
  }
  request.path = std::move(target);
  request.content_type = field(http::field::content_type);
  request.authorization = field(http::field::authorization);
  request.x_api_key = field("x-api-key");
  request.origin = field(http::field::origin);
  request.upgrade = field(http::field::upgrade);
  request.requested_headers = field(http::field::access_control_request_headers);
  request.request_id = field("x-request-id");
  request.traceparent = field("traceparent");
  return request;
}

// RFC 9112, 3.2.
template <typename Head>
std::optional<ApiError> check_host(const Head& head) {
  const auto num_hosts = head.count(http::field::host);
  if (num_hosts == 1 || (num_hosts == 0 && head.version() < 11)) return std::nullopt;
  return invalid_value("Host", "one of it in a request of HTTP/1.1", std::to_string(num_hosts));
}

// A body in any other coding has no end that we know (RFC 9112, 6.3): what follows would be taken
// for the next request. Of several fields the first is enough: the parser refuses any behind
// `chunked`.
template <typename Head>
std::optional<ApiError> check_body_coding(const Head& head) {
  const auto field = head.find(http::field::transfer_encoding);
  if (field == head.end() || beast::iequals(field->value(), "chunked")) return std::nullopt;
  const std::string codings(field->value().data(), field->value().size());
  ApiError error = invalid_value("Transfer-Encoding", "chunked", codings.substr(0, 200));
  bool ends_chunked = false;
  for (const auto& coding : http::token_list(codings)) {
    ends_chunked = beast::iequals(coding, "chunked");
  }
  if (ends_chunked) error.status = 501;
  return error;
}

// Counts a request as running for drain().
class ActiveRequest {
 public:
  explicit ActiveRequest(ServerState& state) : state_(state) { state_.begin_request(); }
  ~ActiveRequest() { state_.end_request(); }
  ActiveRequest(const ActiveRequest&) = delete;
  ActiveRequest& operator=(const ActiveRequest&) = delete;

 private:
  ServerState& state_;
};

}  // namespace

Session::Session(Connection::Socket socket,
                 asio::ssl::context* tls,
                 ServerState& state,
                 RequestThreads& request_threads)
    : connection_(std::move(socket), tls, state.options.vanished_timeout),
      state_(state),
      request_threads_(request_threads),
      buffer_(kMaxBufferBytes),
      read_done_(connection_.executor()) {}

Session::~Session() { state_.remove_session(this); }

asio::awaitable<void> Session::run() {
  bool keep_alive = co_await connection_.handshake(state_.options.header_timeout);
  while (keep_alive) {
    keep_alive = co_await serve_one();
    idle_ = true;
  }
  co_await linger();
}

void Session::close_if_idle() {
  asio::dispatch(executor(), [self = shared_from_this()] {
    if (self->idle_) self->cut();
  });
}

void Session::cut() { connection_.close(); }

// Reads one request and answers it; false when the connection should end.
asio::awaitable<bool> Session::serve_one() {
  if (!co_await read_first_bytes()) co_return false;
  idle_ = false;
  head_options_ = {};
  events_begun_ = false;
  status_ = 0;
  request_ = {};
  const auto begin = Clock::now();
  const bool keep_alive = co_await answer_one();
  log_access(begin);
  co_return keep_alive;
}

asio::awaitable<bool> Session::answer_one() {
  Parser parser;
  parser.body_limit(static_cast<uint64_t>(state_.options.max_body_size_bytes));
  if (!co_await read_head(parser)) co_return false;

  const ActiveRequest active(state_);
  head_options_.http_minor = parser.get().version() >= 11 ? 1 : 0;
  head_options_.keep_alive = parser.get().keep_alive() && !state_.draining;
  const RouteMatch route = match_route(request_.method, request_.path);
  auto error = check_host(parser.get());
  if (!error) error = check_body_coding(parser.get());
  if (error) {
    co_return co_await refuse_body(error_response(*error, dialect_of(route.endpoint)));
  }
  std::optional<HttpResponse> refusal = refuse_early(request_, route, state_);
  if (refusal) {
    if (!parser.is_done()) co_return co_await refuse_body(std::move(*refusal));
    co_return co_await send(std::move(*refusal));
  }
  const auto expect = parser.get()[http::field::expect];
  if (!parser.is_done() && beast::iequals(expect, "100-continue")) {
    if (!co_await write_all("HTTP/1.1 100 Continue\r\n\r\n")) co_return false;
  }
  ServerState::BodyMemory body_memory(state_);
  if (!co_await read_body(parser, body_memory)) co_return false;
  co_return co_await dispatch(route, std::move(parser.get().body()));
}

// One line a request, as clients of servers expect: who, what, how it ended, how long it took. The
// query is left out: it may hold a key.
void Session::log_access(Clock::time_point begin) const {
  if (request_.path.empty() && status_ == 0) return;  // nothing that could be read as a request
  const std::vector<std::string>& unlogged = state_.options.unlogged_paths;
  if (std::find(unlogged.begin(), unlogged.end(), request_.path) != unlogged.end()) return;
  const std::chrono::duration<double> elapsed = Clock::now() - begin;
  spdlog::info("{} \"{} {}\" {} {:.3f} s {}", connection_.peer(), method_name(request_.method),
               printable(request_.path), status_ == 0 ? "gone" : std::to_string(status_),
               elapsed.count(), request_.request_id);
}

// Waits for a request to begin, as long as a kept-alive connection may be silent.
asio::awaitable<bool> Session::read_first_bytes() {
  if (buffer_.size() > 0) co_return true;  // pipelined
  if (state_.draining) co_return false;
  co_return co_await read_more(Clock::now() + state_.options.keep_alive_timeout);
}

// Fed by hand, to count: the parser's own limit looks at one unfinished line at a time, and a flood
// of short fields passes it.
asio::awaitable<bool> Session::read_head(Parser& parser) {
  const auto max_size_bytes = static_cast<size_t>(state_.options.max_header_size_bytes);
  parser.header_limit(static_cast<uint32_t>(max_size_bytes));
  const auto deadline = Clock::now() + state_.options.header_timeout;  // for the whole head
  size_t parsed_size_bytes = 0;
  while (true) {
    boost::system::error_code code;
    const size_t num_parsed = parser.put(buffer_.data(), code);
    buffer_.consume(num_parsed);
    parsed_size_bytes += num_parsed;
    const bool is_too_large = parsed_size_bytes + buffer_.size() > max_size_bytes;
    if (code == http::error::need_more) code = {};
    if (!code && !parser.is_header_done() && is_too_large) code = http::error::header_limit;
    if (code || parser.is_header_done()) {
      // A refusal answers the request, too, as far as it came.
      request_ = to_request(parser.get());
      if (!is_request_id(request_.request_id)) request_.request_id = state_.next_request_id();
      if (code) co_return co_await answer_read_error(code);
      co_return true;
    }
    if (!co_await read_more(deadline)) co_return false;
  }
}

// Bodies of all connections share one budget of memory; it is taken as the bytes come, so that a
// mere announcement costs nothing.
asio::awaitable<bool> Session::read_body(Parser& parser, ServerState::BodyMemory& memory) {
  parser.eager(true);
  const auto begin = Clock::now();
  while (!parser.is_done()) {
    boost::system::error_code code;
    const size_t num_parsed = buffer_.size() == 0 ? 0 : parser.put(buffer_.data(), code);
    buffer_.consume(num_parsed);
    if (code && code != http::error::need_more) co_return co_await answer_read_error(code);
    const auto size_bytes = static_cast<int64_t>(parser.get().body().size());
    if (!memory.grow_to(size_bytes)) {
      const RouteMatch route = match_route(request_.method, request_.path);
      co_return co_await refuse_body(error_response(
          server_error(503, "Too many bytes of requests are under way.", "overloaded"),
          dialect_of(route.endpoint)));
    }
    if (parser.is_done()) break;
    if (num_parsed > 0 && buffer_.size() > 0) continue;
    if (buffer_.size() + kReadSize > buffer_.max_size()) {  // an endless chunk extension
      co_return co_await answer_read_error(make_error_code(http::error::buffer_overflow));
    }
    const auto now = Clock::now();
    const auto slowest = begin + state_.options.body_timeout +
                         std::chrono::seconds(size_bytes / kMinBodyBytesPerSecond);
    if (!co_await read_more(std::min(now + state_.options.body_timeout, slowest))) co_return false;
  }
  co_return true;
}

// Nothing of a body that nobody wants is read.
asio::awaitable<bool> Session::refuse_body(HttpResponse response) {
  head_options_.keep_alive = false;
  unread_input_ = true;
  co_await send(std::move(response));
  co_return false;
}

// Malformed or oversized input is answered before the connection ends; a client gone is not.
asio::awaitable<bool> Session::answer_read_error(boost::system::error_code code) {
  if (code == http::error::end_of_stream || code == http::error::partial_message) co_return false;
  if (code.category() != http::make_error_code(http::error::bad_method).category()) co_return false;
  ApiError error;
  if (code == http::error::body_limit) {
    error.status = 413;
    error.message = "body: expected at most " + std::to_string(state_.options.max_body_size_bytes) +
                    " bytes, got more";
    error.code = "request_too_large";
  } else if (code == http::error::header_limit || code == http::error::buffer_overflow) {
    error.status = 431;
    error.message = "headers: expected at most " +
                    std::to_string(state_.options.max_header_size_bytes) + " bytes, got more";
  } else {
    error.message = "malformed HTTP: " + code.message();
  }
  head_options_.keep_alive = false;
  unread_input_ = true;
  const RouteMatch route = match_route(request_.method, request_.path);
  co_await send(error_response(error, dialect_of(route.endpoint)));
  co_return false;
}

asio::awaitable<bool> Session::dispatch(const RouteMatch& route, std::string body) {
  const Dialect& dialect = dialect_of(route.endpoint);
  if (dialect.open != nullptr) {
    co_return co_await serve_exchange(*this, dialect, route.path, std::move(body));
  }
  if (is_sleep_order(*route.endpoint)) {
    co_return co_await serve_sleep_order(*this, *route.endpoint, request_.query, std::move(body));
  }
  HttpResponse response;
  const auto answer = [&] { response = handle(*route.endpoint, route.parameter, body, state_); };
  co_await run_maybe_on_worker(*this, body.size(), answer);
  co_return co_await send(std::move(response));
}

asio::awaitable<bool> Session::send(HttpResponse response) {
  add_common_headers(response);
  const std::string head = response_head(response, head_options_);
  const std::string_view body =
      request_.method == Method::kHead ? std::string_view() : std::string_view(response.body);
  const bool written = co_await write_all(head, body);
  co_return written&& head_options_.keep_alive;
}

asio::awaitable<bool> Session::write_events(std::string_view frames) {
  std::string head;
  if (!events_begun_) {
    events_begun_ = true;
    HttpResponse response;
    response.content_type = "text/event-stream; charset=utf-8";
    response.headers = {{"Cache-Control", "no-cache"}, {"X-Accel-Buffering", "no"}};
    add_common_headers(response);
    head_options_.chunked = true;
    if (head_options_.http_minor == 0) head_options_.keep_alive = false;
    head = response_head(response, head_options_);
  }
  if (head_options_.http_minor == 0) co_return co_await write_all(head, frames);
  std::array<char, 20> chunk_size{};
  const int num_chars =
      std::snprintf(chunk_size.data(), chunk_size.size(), "%zx\r\n", frames.size());
  head.append(chunk_size.data(), static_cast<size_t>(num_chars));
  co_return co_await write_all(head, frames, "\r\n");
}

asio::awaitable<bool> Session::end_events() {
  if (head_options_.http_minor == 0) co_return false;
  const bool written = co_await write_all("0\r\n\r\n");
  co_return written&& head_options_.keep_alive;
}

asio::awaitable<bool> Session::write_all(std::string_view first,
                                         std::string_view second,
                                         std::string_view third) {
  const std::array<asio::const_buffer, 3> buffers = {asio::buffer(first.data(), first.size()),
                                                     asio::buffer(second.data(), second.size()),
                                                     asio::buffer(third.data(), third.size())};
  co_return co_await connection_.write(buffers, state_.options.write_timeout);
}

// A close with unread input resets the connection, and the reset may overtake the answer: first
// say that no more comes, then read a while.
asio::awaitable<void> Session::linger() {
  if (!connection_.is_open()) co_return;
  co_await connection_.shutdown_send(kLingerTime);
  const auto deadline = Clock::now() + kLingerTime;
  for (size_t num_dropped = 0; unread_input_ && num_dropped < kMaxLingerBytes;) {
    if (!read_pending_) buffer_.clear();
    if (!co_await read_more(deadline)) break;
    num_dropped += buffer_.size();
  }
  cut();
}

void Session::start_read() {
  read_pending_ = true;
  connection_.start_read(
      buffer_.prepare(kReadSize),
      [self = shared_from_this()](boost::system::error_code code, size_t num_read) {
        self->read_pending_ = false;
        self->read_error_ = code;
        self->buffer_.commit(num_read);
        self->read_done_.cancel();
        if (!self->watcher_) return;
        if (code) return self->watcher_->client_gone();  // also one that only stops sending
        if (self->buffer_.size() < kMaxPipelinedBytes) self->start_read();
      });
}

// False when nothing came until `deadline` or the client has gone; the connection is closed then.
asio::awaitable<bool> Session::read_more(Clock::time_point deadline) {
  if (read_error_) co_return false;
  if (!read_pending_) start_read();
  while (read_pending_ && Clock::now() < deadline) {
    read_done_.expires_at(deadline);
    co_await read_done_.async_wait(kTuple);
  }
  if (read_pending_) cut();
  co_return !read_pending_ && !read_error_;
}

void Session::watch_client(const std::shared_ptr<TokenChannel>& channel) {
  if (read_error_) return channel->client_gone();
  watcher_ = channel;
  if (!read_pending_ && buffer_.size() < kMaxPipelinedBytes) start_read();
}

void Session::unwatch_client() { watcher_.reset(); }

void Session::add_common_headers(HttpResponse& response) {
  status_ = response.status;
  const RouteMatch route = match_route(request_.method, request_.path);
  state_.metrics->count_response(route.path.empty() ? "other" : route.path, response.status);
  if (!request_.request_id.empty()) {
    response.headers.emplace_back("X-Request-Id", request_.request_id);
  }
  append_cors_headers(state_.options.cors, request_, response);
}

}  // namespace tandem::server
