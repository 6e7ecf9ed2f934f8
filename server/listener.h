// Accepts connections and starts a session for each, on a strand of its own.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/thread_pool.hpp>

#include "server/server_state.h"

namespace tandem::server {

// Resolves and binds options.host:port; throws ConfigError.
boost::asio::ip::tcp::acceptor bind_listener(boost::asio::io_context& io,
                                             const ServerOptions& options);

// Until the acceptor is closed. Runs on the acceptor's executor.
boost::asio::awaitable<void> accept_connections(boost::asio::ip::tcp::acceptor& acceptor,
                                                boost::asio::io_context& io,
                                                boost::asio::thread_pool& workers,
                                                ServerState& state);

}  // namespace tandem::server
