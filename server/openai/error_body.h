// Errors in OpenAI's JSON form (serving/spec.md §4.4).
#pragma once

#include <string>

#include "server/chat/api_error.h"

namespace tandem::server {

// {"error":{"object":"error","message":...,"type":...,"param":...,"code":...}}
std::string error_json(const ApiError& error);

}  // namespace tandem::server
