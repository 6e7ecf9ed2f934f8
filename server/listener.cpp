#include "server/listener.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/local/stream_protocol.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/strand.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <cstring>
#include <exception>
#include <filesystem>
#include <memory>

#include "runtime/base/errors.h"
#include "server/dialects.h"
#include "server/session.h"

namespace tandem::server {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using asio::local::stream_protocol;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

// One connection too many: a short answer that fits into the socket's buffer, no session.
void refuse_connection(Connection::Socket& socket) {
  const HttpResponse response =
      error_response(server_error(503, "Too many connections.", "too_many_connections"));
  const std::string text = response_head(response, {.keep_alive = false}) + response.body;
  boost::system::error_code ignored;
  socket.non_blocking(true, ignored);
  socket.write_some(asio::buffer(text), ignored);
  socket.shutdown(Connection::Socket::shutdown_send, ignored);
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

[[noreturn]] void fail(const std::string& where, const boost::system::error_code& code) {
  throw ConfigError(fmt::format("cannot listen on {}: {}", where, code.message()));
}

Acceptor bind_to(asio::io_context& io,
                 const asio::generic::stream_protocol::endpoint& endpoint,
                 const std::string& where) {
  boost::system::error_code code;
  Acceptor acceptor(asio::make_strand(io));
  acceptor.open(endpoint.protocol(), code);
  if (code) fail(where, code);
  acceptor.set_option(asio::socket_base::reuse_address(true), code);
  acceptor.bind(endpoint, code);
  if (code) fail(where, code);
  acceptor.listen(asio::socket_base::max_listen_connections, code);
  if (code) fail(where, code);
  return acceptor;
}

// A socket that a server left behind when it was killed gives way; one that answers does not, nor
// does a file of any other kind.
void remove_stale_socket(asio::io_context& io, const std::string& path) {
  std::error_code ec;
  if (!std::filesystem::is_socket(path, ec)) return;
  stream_protocol::socket probe(io);
  boost::system::error_code code;
  probe.connect(stream_protocol::endpoint(path), code);
  if (code == asio::error::connection_refused) std::filesystem::remove(path, ec);
}

// Without the brackets that an IPv6 address has in URLs. No host at all would mean every interface.
std::string host_to_bind(const std::string& host) {
  const bool has_brackets = host.starts_with('[') && host.ends_with(']');
  std::string bare = has_brackets ? host.substr(1, host.size() - 2) : host;
  if (bare.empty()) {
    throw ConfigError(fmt::format("--host: expected an address or a name, got '{}'", host));
  }
  return bare;
}

}  // namespace

Acceptor bind_listener(asio::io_context& io, const ServerOptions& options) {
  if (!options.uds_path.empty()) {
    constexpr size_t kMaxPathSize = 107;  // sun_path, with its NUL
    if (options.uds_path.size() > kMaxPathSize) {
      throw ConfigError(fmt::format("cannot listen on {}: expected a path of at most {} bytes",
                                    options.uds_path, kMaxPathSize));
    }
    remove_stale_socket(io, options.uds_path);
    return bind_to(io, stream_protocol::endpoint(options.uds_path), options.uds_path);
  }
  const std::string where = fmt::format("{}:{}", options.host, options.port);
  boost::system::error_code code;
  tcp::resolver resolver(io);
  const auto endpoints = resolver.resolve(host_to_bind(options.host), std::to_string(options.port),
                                          tcp::resolver::passive, code);
  if (code || endpoints.empty()) fail(where, code);
  return bind_to(io, endpoints.begin()->endpoint(), where);
}

uint16_t port_of(const Acceptor& acceptor) {
  const auto endpoint = acceptor.local_endpoint();
  if (endpoint.protocol().family() == AF_UNIX) return 0;
  tcp::endpoint address;
  std::memcpy(address.data(), endpoint.data(), std::min(endpoint.size(), address.capacity()));
  return address.port();
}

asio::awaitable<void> accept_connections(Acceptor& acceptor,
                                         asio::io_context& io,
                                         asio::ssl::context* tls,
                                         RequestThreads& request_threads,
                                         ServerState& state) {
  asio::steady_timer pause(acceptor.get_executor());
  while (acceptor.is_open()) {
    const asio::any_io_executor strand = asio::make_strand(io);  // one for each connection
    Connection::Socket socket(strand);
    auto [code] = co_await acceptor.async_accept(socket, kTuple);
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
    auto session = std::make_shared<Session>(std::move(socket), tls, state, request_threads);
    state.add_session(session);
    start_session(std::move(session));
  }
}

}  // namespace tandem::server
