// Which dialect an endpoint speaks: how a body becomes an exchange, and what an error looks like.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "server/chat/exchange.h"
#include "server/http/message.h"
#include "server/http/router.h"
#include "server/http/sse.h"

namespace tandem::server {

struct Dialect {
  OpenExchange open = nullptr;  // absent: the endpoint answers at once
  std::string (*error_json)(const ApiError&) = nullptr;
  std::string_view keep_alive = kSseKeepAlive;  // what a silent stream sends
};

const Dialect& dialect_of(std::optional<Endpoint> endpoint);  // OpenAI's where there is no other

HttpResponse error_response(const ApiError& error, const Dialect& dialect = dialect_of({}));

}  // namespace tandem::server
