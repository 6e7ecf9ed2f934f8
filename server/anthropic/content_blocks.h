// `messages` and `system` of an Anthropic request as chat messages.
#pragma once

#include <boost/json/fwd.hpp>
#include <string>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/chat.h"
#include "server/chat/api_error.h"

namespace tandem::server {

// Roles user, assistant and, at any place, system. A user message with tool results becomes one
// tool message a result and a user message for the text around them. Blocks of a kind that this
// model cannot read become a line that says so: an image in a tool result must not end a session.
Result<std::vector<ChatMessage>, ApiError> parse_anthropic_messages(
    const boost::json::array& messages);

// A string or text blocks, joined by line ends. A leading x-anthropic-billing-header block is left
// out: it differs between conversations and would end every shared prefix (serving/clients.md).
Result<std::string, ApiError> parse_system(const boost::json::value& system);

}  // namespace tandem::server
