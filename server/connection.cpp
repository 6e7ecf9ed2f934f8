#include "server/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>

#include <algorithm>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <cstring>
#include <utility>

namespace tandem::server {
namespace {

namespace asio = boost::asio;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

template <int kLevel, int kName>
using IntOption = asio::detail::socket_option::integer<kLevel, kName>;

std::string address_of(const Connection::Socket& socket) {
  boost::system::error_code code;
  const auto endpoint = socket.remote_endpoint(code);
  if (code) return "gone";
  asio::ip::tcp::endpoint address;
  const auto family = endpoint.protocol().family();
  if (family != AF_INET && family != AF_INET6) return "unix";
  std::memcpy(address.data(), endpoint.data(), std::min(endpoint.size(), address.capacity()));
  return address.address().to_string();
}

}  // namespace

Connection::Connection(Socket socket,
                       asio::ssl::context* tls,
                       std::chrono::seconds vanished_timeout)
    : stream_(std::move(socket)), peer_(address_of(stream_.socket())) {
  boost::system::error_code ignored;  // a Unix socket has none of these
  Socket& raw = stream_.socket();
  raw.set_option(asio::ip::tcp::no_delay(true), ignored);
  raw.set_option(asio::socket_base::keep_alive(true), ignored);
  const int timeout_s = static_cast<int>(vanished_timeout.count());
  constexpr int kNumProbes = 4;
  raw.set_option(IntOption<IPPROTO_TCP, TCP_KEEPIDLE>(std::max(timeout_s / 2, 1)), ignored);
  raw.set_option(IntOption<IPPROTO_TCP, TCP_KEEPINTVL>(std::max(timeout_s / 2 / kNumProbes, 1)),
                 ignored);
  raw.set_option(IntOption<IPPROTO_TCP, TCP_KEEPCNT>(kNumProbes), ignored);
  // No probes are sent while bytes wait for their acknowledgement: Linux would send those again
  // for a quarter of an hour.
  raw.set_option(IntOption<IPPROTO_TCP, TCP_USER_TIMEOUT>(timeout_s * 1000), ignored);
  if (tls != nullptr) tls_.emplace(stream_, *tls);
}

asio::awaitable<bool> Connection::handshake(std::chrono::milliseconds timeout) {
  if (!tls_) co_return true;
  stream_.expires_after(timeout);
  auto [code] = co_await tls_->async_handshake(asio::ssl::stream_base::server, kTuple);
  co_return !code;
}

void Connection::start_read(asio::mutable_buffer buffer, ReadHandler on_read) {
  stream_.expires_never();  // of the read: a write under way keeps its limit
  auto handler = asio::bind_executor(stream_.get_executor(), std::move(on_read));
  if (tls_) {
    tls_->async_read_some(buffer, std::move(handler));
  } else {
    stream_.async_read_some(buffer, std::move(handler));
  }
}

asio::awaitable<bool> Connection::write(const Buffers& buffers, std::chrono::milliseconds timeout) {
  stream_.expires_after(timeout);
  if (tls_) {
    auto [code, num_written] = co_await asio::async_write(*tls_, buffers, kTuple);
    co_return !code;
  }
  auto [code, num_written] = co_await asio::async_write(stream_, buffers, kTuple);
  co_return !code;
}

asio::awaitable<void> Connection::shutdown_send(std::chrono::milliseconds timeout) {
  if (tls_ && is_open()) {
    stream_.expires_after(timeout);
    co_await tls_->async_shutdown(kTuple);
  }
  boost::system::error_code ignored;
  if (is_open()) stream_.socket().shutdown(Socket::shutdown_send, ignored);
}

void Connection::close() {
  boost::system::error_code ignored;
  stream_.socket().close(ignored);
}

}  // namespace tandem::server
