// POST /sleep and /wake_up: endpoints that answer when the engine has done what they say.
#pragma once

#include <boost/asio/awaitable.hpp>
#include <string>

#include "server/http/router.h"

namespace tandem::server {

class Session;

// False when the connection should end. A client that leaves does not call the order back.
boost::asio::awaitable<bool> serve_sleep_order(Session& session,
                                               Endpoint endpoint,
                                               std::string query,
                                               std::string body);

}  // namespace tandem::server
