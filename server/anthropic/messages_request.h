// POST /v1/messages and /v1/messages/count_tokens: the body as a ChatRequest, every known key
// checked for type and range (serving/spec.md §4.6). Unknown keys are ignored.
#pragma once

#include <string_view>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_request.h"

namespace tandem::server {

struct MessagesRequest {
  ChatRequest chat;
  // The client asked for thinking blocks: without it a client that takes the first block for the
  // answer is not surprised by one.
  bool shows_thinking = false;
};

enum class MessagesUse { kGenerate, kCount };  // kCount: max_tokens may be absent

Result<MessagesRequest, ApiError> parse_messages_request(std::string_view body,
                                                         const RequestLimits& limits,
                                                         MessagesUse use);

}  // namespace tandem::server
