// POST /v1/chat/completions: the body as a ChatRequest, every known key checked for type and range
// (serving/spec.md §4.2). Unknown keys are ignored.
#pragma once

#include <string_view>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_request.h"

namespace tandem::server {

Result<ChatRequest, ApiError> parse_chat_request(std::string_view body,
                                                 const RequestLimits& limits);

}  // namespace tandem::server
