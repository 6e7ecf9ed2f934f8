// Accepts connections and starts a session for each, on a strand of its own.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/basic_socket_acceptor.hpp>
#include <boost/asio/generic/stream_protocol.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ssl/context.hpp>

#include "server/request_threads.h"
#include "server/server_state.h"

namespace tandem::server {

using Acceptor = boost::asio::basic_socket_acceptor<boost::asio::generic::stream_protocol>;

// The Unix socket, or the first address of the host. Throws ConfigError.
Acceptor bind_listener(boost::asio::io_context& io, const ServerOptions& options);
uint16_t port_of(const Acceptor& acceptor);  // 0 for a Unix socket

// Until the acceptor is closed. `tls` nullptr: plain.
boost::asio::awaitable<void> accept_connections(Acceptor& acceptor,
                                                boost::asio::io_context& io,
                                                boost::asio::ssl::context* tls,
                                                RequestThreads& request_threads,
                                                ServerState& state);

}  // namespace tandem::server
