// GET /health_generate: a token generated ahead of everything else that waits.
#pragma once

#include "server/chat/exchange.h"

namespace tandem::server {

// `body` is not looked at.
Result<std::unique_ptr<Exchange>, ApiError> open_health_check(std::string_view body,
                                                              const ServedModel& model);

}  // namespace tandem::server
