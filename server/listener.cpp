#include "server/listener.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <exception>
#include <memory>

#include "runtime/base/errors.h"
#include "server/dialects.h"
#include "server/session.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

// One connection too many: a short answer that fits into the socket's buffer, no session.
void refuse_connection(tcp::socket& socket) {
  const HttpResponse response =
      error_response(server_error(503, "Too many connections.", "too_many_connections"));
  const std::string text = response_head(response, {.keep_alive = false}) + response.body;
  boost::system::error_code ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(text), ignored);
  socket.shutdown(tcp::socket::shutdown_send, ignored);
}

void start_session(std::shared_ptr<Session> session) {
  const auto executor = session->executor();
  asio::co_spawn(
      executor, [session]() -> asio::awaitable<void> { return session->run(); },
      [session](const std::exception_ptr& failure) {
        if (!failure) return;
        try {
          std::rethrow_exception(failure);
        } catch (const std::exception& error) {
          spdlog::error("a connection ended with an exception: {}", error.what());
        }
      });
}

}  // namespace

tcp::acceptor bind_listener(asio::io_context& io, const ServerOptions& options) {
  const std::string where = fmt::format("{}:{}", options.host, options.port);
  const auto fail = [&](const boost::system::error_code& code) {
    throw ConfigError(fmt::format("cannot listen on {}: {}", where, code.message()));
  };
  boost::system::error_code code;
  tcp::resolver resolver(io);
  const auto endpoints =
      resolver.resolve(options.host, std::to_string(options.port), tcp::resolver::passive, code);
  if (code || endpoints.empty()) fail(code);
  const tcp::endpoint endpoint = endpoints.begin()->endpoint();
  tcp::acceptor acceptor(asio::make_strand(io));
  acceptor.open(endpoint.protocol(), code);
  if (code) fail(code);
  acceptor.set_option(asio::socket_base::reuse_address(true), code);
  acceptor.bind(endpoint, code);
  if (code) fail(code);
  acceptor.listen(asio::socket_base::max_listen_connections, code);
  if (code) fail(code);
  return acceptor;
}

asio::awaitable<void> accept_connections(tcp::acceptor& acceptor,
                                         asio::io_context& io,
                                         asio::thread_pool& workers,
                                         ServerState& state) {
  asio::steady_timer pause(acceptor.get_executor());
  while (acceptor.is_open()) {
    const asio::any_io_executor strand = asio::make_strand(io);  // one for each connection
    auto [code, socket] = co_await acceptor.async_accept(strand, kTuple);
    if (code == asio::error::operation_aborted) co_return;
    if (code) {  // out of descriptors, usually: connections that end make room
      spdlog::warn("accept: {}", code.message());
      pause.expires_after(std::chrono::milliseconds(100));
      co_await pause.async_wait(kTuple);
      continue;
    }
    if (!state.has_room_for_session()) {
      refuse_connection(socket);
      continue;
    }
    auto session = std::make_shared<Session>(std::move(socket), state, workers);
    state.add_session(session);
    start_session(std::move(session));
  }
}

}  // namespace tandem::server
