// One connection: reads requests one after the other, hands them to the handlers, writes answers.
// All members run on the connection's strand unless they say otherwise.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/connection.h"
#include "server/http/message.h"
#include "server/http/router.h"
#include "server/request_threads.h"
#include "server/server_state.h"

namespace tandem::server {

class TokenChannel;

class Session : public std::enable_shared_from_this<Session> {
 public:
  // `tls` nullptr: plain.
  Session(Connection::Socket socket,
          boost::asio::ssl::context* tls,
          ServerState& state,
          RequestThreads& request_threads);
  ~Session();

  boost::asio::awaitable<void> run();  // until the connection ends
  void close_if_idle();                // thread-safe

  // For handlers. False: the client is gone, give up.
  boost::asio::awaitable<bool> send(HttpResponse response);
  boost::asio::awaitable<bool> write_events(std::string_view frames);  // head first, when needed
  boost::asio::awaitable<bool> end_events();
  [[nodiscard]] bool events_begun() const { return events_begun_; }
  [[nodiscard]] const std::string& request_id() const { return request_.request_id; }
  [[nodiscard]] const std::string& traceparent() const { return request_.traceparent; }

  // Tells `channel` when the client closes its end while an answer is being made. Bytes that it
  // sends meanwhile (the next, pipelined request) are kept.
  void watch_client(const std::shared_ptr<TokenChannel>& channel);
  void unwatch_client();
  void cut();  // closes the socket: pending operations end

  boost::asio::any_io_executor executor() { return connection_.executor(); }
  [[nodiscard]] ServerState& state() { return state_; }
  [[nodiscard]] RequestThreads& request_threads() { return request_threads_; }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;
  using Clock = std::chrono::steady_clock;

  boost::asio::awaitable<bool> serve_one();
  boost::asio::awaitable<bool> answer_one();
  void log_access(Clock::time_point begin) const;
  boost::asio::awaitable<bool> read_first_bytes();
  boost::asio::awaitable<bool> read_head(Parser& parser);
  boost::asio::awaitable<bool> read_body(Parser& parser, ServerState::BodyMemory& memory);
  boost::asio::awaitable<bool> answer_read_error(boost::system::error_code code);
  boost::asio::awaitable<bool> refuse_body(HttpResponse response);
  boost::asio::awaitable<bool> dispatch(const RouteMatch& route, std::string body);
  boost::asio::awaitable<void> linger();
  boost::asio::awaitable<bool> write_all(std::string_view first,
                                         std::string_view second = {},
                                         std::string_view third = {});
  // One read is under way at most. It may begin as a watch during an answer and go on as the wait
  // for the next request: nothing is ever cancelled but by closing the connection.
  void start_read();
  boost::asio::awaitable<bool> read_more(Clock::time_point deadline);
  void add_common_headers(HttpResponse& response);

  Connection connection_;
  ServerState& state_;
  RequestThreads& request_threads_;
  boost::beast::flat_buffer buffer_;
  bool read_pending_ = false;
  boost::system::error_code read_error_;
  boost::asio::steady_timer read_done_;
  std::shared_ptr<TokenChannel> watcher_;
  HttpRequest request_;
  HeadOptions head_options_;
  bool idle_ = true;
  bool events_begun_ = false;
  int status_ = 0;             // of the answer under way, 0 before its head
  bool unread_input_ = false;  // we close before having read what the client sends
};

}  // namespace tandem::server
