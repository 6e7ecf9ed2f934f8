// tool_choice and parallel_tool_calls in OpenAI's forms, of the chat and of the Responses API
// (serving/spec.md §1.4).
#pragma once

#include <string>
#include <string_view>

#include "server/chat/chat_request.h"
#include "server/chat/json_fields.h"

namespace tandem::server {

// What the model calls a tool of a namespace ("" without).
using ModelToolName = std::string (*)(std::string_view name, std::string_view name_space);

// 'auto', 'none', 'required', a function, or allowed_tools. The request's tools have been read.
// With `model_name` custom tools and those of namespaces can be named, too.
void read_tool_choice(FieldReader& fields,
                      ChatRequest& request,
                      ModelToolName model_name = nullptr);

}  // namespace tandem::server
