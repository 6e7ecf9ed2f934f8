// POST /v1/responses: the body as a ChatRequest, every known key checked for type and range.
// Stateless: nothing is stored, so what names a stored response or conversation is a 400. Unknown
// keys are ignored.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_request.h"
#include "server/responses/response_tools.h"

namespace tandem::server {

struct ResponsesRequest {
  ChatRequest chat;
  ResponseTools tools;
  std::string echo_json;  // members of the response object that repeat the request, comma first
};

Result<ResponsesRequest, ApiError> parse_responses_request(std::string_view body,
                                                           const RequestLimits& limits);

}  // namespace tandem::server
