// POST /v1/chat/completions/render and /v1/completions/render: what the engine would be asked for a
// request, which is not run. The form is vLLM's GenerateRequest, beside it the prompt as text.
#pragma once

#include <string>
#include <string_view>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/served_model.h"

namespace tandem::server {

// An object; the errors are those of the request itself, but for what a grammar cannot enforce.
Result<std::string, ApiError> render_chat_json(std::string_view body, const ServedModel& model);
// A list with an object for each prompt.
Result<std::string, ApiError> render_text_json(std::string_view body, const ServedModel& model);

}  // namespace tandem::server
