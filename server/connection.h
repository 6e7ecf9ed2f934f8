// One accepted socket, TCP or Unix, plain or TLS. All members run on its strand.
#pragma once

#include <array>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <boost/beast/core/basic_stream.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

namespace tandem::server {

class Connection {
 public:
  using Socket = boost::asio::generic::stream_protocol::socket;
  using ReadHandler = std::function<void(boost::system::error_code, size_t num_read)>;
  using Buffers = std::array<boost::asio::const_buffer, 3>;

  // `tls` outlives the connection; nullptr: the bytes are plain. A client that vanished without a
  // word (power, network) is given up when nothing was heard of it for `vanished_timeout`.
  Connection(Socket socket, boost::asio::ssl::context* tls, std::chrono::seconds vanished_timeout);

  // At once for a plain one. False: no TLS came to be in time.
  boost::asio::awaitable<bool> handshake(std::chrono::milliseconds timeout);

  // One at a time, beside a write: `on_read` runs on the strand. Without a time limit of its own;
  // close() ends it.
  void start_read(boost::asio::mutable_buffer buffer, ReadHandler on_read);
  // False when the bytes were not taken in time or the client has gone.
  boost::asio::awaitable<bool> write(const Buffers& buffers, std::chrono::milliseconds timeout);
  // Says that no more comes.
  boost::asio::awaitable<void> shutdown_send(std::chrono::milliseconds timeout);
  void close();  // pending operations end

  // The client's address, without its port; "unix" behind a Unix socket. Known from the beginning.
  [[nodiscard]] const std::string& peer() const { return peer_; }
  [[nodiscard]] bool is_open() { return stream_.socket().is_open(); }
  boost::asio::any_io_executor executor() { return stream_.get_executor(); }

 private:
  using Stream = boost::beast::basic_stream<boost::asio::generic::stream_protocol>;

  Stream stream_;
  std::optional<boost::asio::ssl::stream<Stream&>> tls_;
  std::string peer_;
};

}  // namespace tandem::server
