// One connection: reads requests one after the other, hands them to the handlers, writes answers.
// All members run on the connection's strand unless they say otherwise.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/core/tcp_stream.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "server/http/message.h"
#include "server/http/router.h"
#include "server/server_state.h"

namespace tandem::server {

class TokenChannel;

class Session : public std::enable_shared_from_this<Session> {
 public:
  // `workers` runs what would hold up the other connections: parsing and tokenising large bodies.
  Session(boost::asio::ip::tcp::socket socket,
          ServerState& state,
          boost::asio::thread_pool& workers);
  ~Session();

  boost::asio::awaitable<void> run();  // until the connection ends
  void close_if_idle();                // thread-safe

  // For handlers. False: the client is gone, give up.
  boost::asio::awaitable<bool> send(HttpResponse response);
  boost::asio::awaitable<bool> write_events(std::string_view frames);  // head first, when needed
  boost::asio::awaitable<bool> end_events();
  [[nodiscard]] bool events_begun() const { return events_begun_; }

  // Tells `channel` when the client closes its end while an answer is being made. Bytes that it
  // sends meanwhile (the next, pipelined request) are kept.
  void watch_client(const std::shared_ptr<TokenChannel>& channel);
  void unwatch_client();
  void cut();  // closes the socket: pending operations end

  boost::asio::any_io_executor executor() { return stream_.get_executor(); }
  [[nodiscard]] ServerState& state() { return state_; }
  [[nodiscard]] boost::asio::thread_pool& workers() { return workers_; }

 private:
  using Parser = boost::beast::http::request_parser<boost::beast::http::string_body>;

  boost::asio::awaitable<bool> serve_one();
  boost::asio::awaitable<bool> read_first_bytes();
  boost::asio::awaitable<bool> read_head(Parser& parser);
  boost::asio::awaitable<bool> read_body(Parser& parser);
  boost::asio::awaitable<bool> answer_read_error(boost::system::error_code code);
  boost::asio::awaitable<bool> dispatch(const RouteMatch& route, std::string body);
  boost::asio::awaitable<void> linger();
  boost::asio::awaitable<bool> write_all(std::string_view first,
                                         std::string_view second = {},
                                         std::string_view third = {});
  void on_readable(const std::shared_ptr<TokenChannel>& channel);
  void add_common_headers(HttpResponse& response) const;

  boost::beast::tcp_stream stream_;
  ServerState& state_;
  boost::asio::thread_pool& workers_;
  boost::beast::flat_buffer buffer_;
  HttpRequest request_;
  HeadOptions head_options_;
  bool idle_ = true;
  bool events_begun_ = false;
  bool unread_input_ = false;  // we close before having read what the client sends
  boost::asio::cancellation_signal watch_signal_;
  uint64_t watch_generation_ = 0;  // tells a late wake-up of an earlier watch from this one's
};

}  // namespace tandem::server
