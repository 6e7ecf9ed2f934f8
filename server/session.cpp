#include "server/session.h"

#include <spdlog/spdlog.h>

#include <array>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/error.hpp>
#include <boost/beast/http/error.hpp>
#include <boost/beast/http/read.hpp>

#include "server/exchange_handler.h"
#include "server/handlers.h"
#include "server/http/sse.h"
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
  return request;
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

Session::Session(asio::ip::tcp::socket socket, ServerState& state, asio::thread_pool& workers)
    : stream_(std::move(socket)), state_(state), workers_(workers), buffer_(kMaxBufferBytes) {
  boost::system::error_code ignored;
  stream_.socket().set_option(asio::ip::tcp::no_delay(true), ignored);
  stream_.socket().set_option(asio::socket_base::keep_alive(true), ignored);
}

Session::~Session() { state_.remove_session(this); }

asio::awaitable<void> Session::run() {
  bool keep_alive = true;
  while (keep_alive) {
    keep_alive = co_await serve_one();
    idle_ = true;
  }
  co_await linger();
}

void Session::close_if_idle() {
  asio::dispatch(stream_.get_executor(), [self = shared_from_this()] {
    if (self->idle_) self->cut();
  });
}

void Session::cut() {
  boost::system::error_code ignored;
  stream_.socket().close(ignored);
}

// Reads one request and answers it; false when the connection should end.
asio::awaitable<bool> Session::serve_one() {
  if (!co_await read_first_bytes()) co_return false;
  idle_ = false;
  head_options_ = {};
  events_begun_ = false;
  request_ = {};

  Parser parser;
  parser.body_limit(static_cast<uint64_t>(state_.options.max_body_size_bytes));
  if (!co_await read_head(parser)) co_return false;

  const ActiveRequest active(state_);
  request_ = to_request(parser.get());
  head_options_.http_minor = parser.get().version() >= 11 ? 1 : 0;
  head_options_.keep_alive = parser.get().keep_alive() && !state_.draining;
  const RouteMatch route = match_route(request_.method, request_.path);
  std::optional<HttpResponse> refusal = refuse_early(request_, route, state_);
  if (refusal) {
    if (!parser.is_done()) {  // nothing of a body that nobody wants is read
      head_options_.keep_alive = false;
      unread_input_ = true;
    }
    co_return co_await send(std::move(*refusal));
  }
  const auto expect = parser.get()[http::field::expect];
  if (!parser.is_done() && beast::iequals(expect, "100-continue")) {
    if (!co_await write_all("HTTP/1.1 100 Continue\r\n\r\n")) co_return false;
  }
  if (!co_await read_body(parser)) co_return false;
  co_return co_await dispatch(route, std::move(parser.get().body()));
}

// Waits for a request to begin, as long as a kept-alive connection may be silent.
asio::awaitable<bool> Session::read_first_bytes() {
  if (buffer_.size() > 0) co_return true;  // pipelined
  if (state_.draining) co_return false;
  stream_.expires_after(state_.options.keep_alive_timeout);
  auto [code, num_read] = co_await stream_.async_read_some(buffer_.prepare(kReadSize), kTuple);
  if (code) co_return false;
  buffer_.commit(num_read);
  co_return true;
}

// Fed by hand, to count: the parser's own limit looks at one unfinished line at a time, and a flood
// of short fields passes it.
asio::awaitable<bool> Session::read_head(Parser& parser) {
  const auto max_size_bytes = static_cast<size_t>(state_.options.max_header_size_bytes);
  parser.header_limit(static_cast<uint32_t>(max_size_bytes));
  stream_.expires_after(state_.options.header_timeout);  // for the whole head
  size_t parsed_size_bytes = 0;
  while (true) {
    boost::system::error_code code;
    const size_t num_parsed = parser.put(buffer_.data(), code);
    buffer_.consume(num_parsed);
    parsed_size_bytes += num_parsed;
    if (code && code != http::error::need_more) co_return co_await answer_read_error(code);
    if (parser.is_header_done()) co_return true;
    if (parsed_size_bytes + buffer_.size() > max_size_bytes) {
      co_return co_await answer_read_error(make_error_code(http::error::header_limit));
    }
    auto [read_code, num_read] =
        co_await stream_.async_read_some(buffer_.prepare(kReadSize), kTuple);
    if (read_code) co_return false;
    buffer_.commit(num_read);
  }
}

asio::awaitable<bool> Session::read_body(Parser& parser) {
  parser.eager(true);
  while (!parser.is_done()) {
    stream_.expires_after(state_.options.body_timeout);
    auto [code, num_read] = co_await http::async_read_some(stream_, buffer_, parser, kTuple);
    if (code) co_return co_await answer_read_error(code);
  }
  co_return true;
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
    co_return co_await serve_exchange(*this, dialect, std::move(body));
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
  stream_.expires_after(state_.options.write_timeout);
  auto [code, num_written] = co_await asio::async_write(stream_, buffers, kTuple);
  co_return !code;
}

// A close with unread input resets the connection, and the reset may overtake the answer: first
// say that no more comes, then read a while.
asio::awaitable<void> Session::linger() {
  boost::system::error_code ignored;
  if (!stream_.socket().is_open()) co_return;
  stream_.socket().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  if (!unread_input_) co_return;
  buffer_.clear();
  stream_.expires_after(kLingerTime);
  for (size_t num_dropped = 0; num_dropped < kMaxLingerBytes;) {
    auto [code, num_read] = co_await stream_.async_read_some(buffer_.prepare(kReadSize), kTuple);
    if (code) break;
    num_dropped += num_read;
  }
}

void Session::watch_client(const std::shared_ptr<TokenChannel>& channel) {
  ++watch_generation_;
  auto on_ready = [self = shared_from_this(), channel,
                   generation = watch_generation_](boost::system::error_code code) {
    if (!code && generation == self->watch_generation_) self->on_readable(channel);
  };
  stream_.socket().async_wait(
      asio::ip::tcp::socket::wait_read,
      asio::bind_cancellation_slot(watch_signal_.slot(),
                                   asio::bind_executor(executor(), std::move(on_ready))));
}

void Session::on_readable(const std::shared_ptr<TokenChannel>& channel) {
  boost::system::error_code code;
  asio::ip::tcp::socket& socket = stream_.socket();
  socket.non_blocking(true, code);
  const size_t num_read = socket.read_some(buffer_.prepare(kReadSize), code);
  if (code == asio::error::would_block || code == asio::error::try_again) {
    return watch_client(channel);
  }
  if (code) return channel->client_gone();  // a client that only shuts down its side counts as gone
  buffer_.commit(num_read);
  if (buffer_.size() < kMaxPipelinedBytes) watch_client(channel);
}

void Session::unwatch_client() {
  ++watch_generation_;
  watch_signal_.emit(asio::cancellation_type::terminal);
}

void Session::add_common_headers(HttpResponse& response) const {
  if (request_.origin.empty()) return;
  for (const std::string& allowed : state_.options.cors_origins) {
    if (allowed != "*" && allowed != request_.origin) continue;
    response.headers.emplace_back("Access-Control-Allow-Origin",
                                  allowed == "*" ? allowed : request_.origin);
    response.headers.emplace_back("Vary", "Origin");
    if (request_.method == Method::kOptions) {
      response.headers.emplace_back("Access-Control-Allow-Methods", "GET, POST, OPTIONS");
      response.headers.emplace_back("Access-Control-Allow-Headers",
                                    "Authorization, Content-Type, X-Api-Key");
      response.headers.emplace_back("Access-Control-Max-Age", "600");
    }
    return;
  }
}

}  // namespace tandem::server
