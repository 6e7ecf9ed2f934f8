// tool_choice and parallel_tool_calls in OpenAI's forms, of the chat and of the Responses API
// (serving/spec.md §1.4).
#pragma once

#include "server/chat/chat_request.h"
#include "server/chat/json_fields.h"

namespace tandem::server {

// 'auto', 'none', 'required', a function, or allowed_tools. The request's tools have been read.
void read_tool_choice(FieldReader& fields, ChatRequest& request);

}  // namespace tandem::server
