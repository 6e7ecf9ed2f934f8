// A request that the engine answers, over one session: open, submit, relay, end. The dialect is a
// parameter.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <cstddef>
#include <functional>
#include <string>
#include <string_view>

#include "server/dialects.h"

namespace tandem::server {

class Session;

// False when the connection should end.
// `endpoint` is the route's path, for the request log.
boost::asio::awaitable<bool> serve_exchange(Session& session,
                                            const Dialect& dialect,
                                            std::string_view endpoint,
                                            std::string body);

// Runs `work` here when the input is short, else on a thread for bodies, and comes back to the
// strand.
boost::asio::awaitable<void> run_maybe_on_worker(Session& session,
                                                 size_t input_size_bytes,
                                                 const std::function<void()>& work);

}  // namespace tandem::server
