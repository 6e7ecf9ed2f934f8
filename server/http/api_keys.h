// Who may ask: "Authorization: Bearer KEY" or "x-api-key: KEY".
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "server/http/message.h"

namespace tandem::server {

// True when `keys` is empty or the request carries one of them. The time taken depends on the
// length of what was sent alone: every key is compared to its last byte.
bool is_authorized(const HttpRequest& request, std::span<const std::string> keys);

}  // namespace tandem::server
