// Errors in Anthropic's JSON form (serving/spec.md §4.4).
#pragma once

#include <string>

#include "server/chat/api_error.h"

namespace tandem::server {

// {"type":"error","error":{"type":...,"message":...}}. A prompt that is too long says so in the
// words at which Claude Code begins to compact.
std::string anthropic_error_json(const ApiError& error);

}  // namespace tandem::server
