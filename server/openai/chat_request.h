// POST /v1/chat/completions: the body as a ChatRequest, every known key checked for type and range
// (serving/spec.md §4.2). Unknown keys are ignored.
#pragma once

#include <string_view>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_request.h"
#include "server/chat/json_fields.h"

namespace tandem::server {

Result<ChatRequest, ApiError> parse_chat_request(std::string_view body,
                                                 const RequestLimits& limits);

// The same of a body that has keys of its own beside a chat's.
Result<ChatRequest, ApiError> read_chat_request(FieldReader& fields, const RequestLimits& limits);

}  // namespace tandem::server
