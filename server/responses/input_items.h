// `input` of a Responses request as chat messages.
#pragma once

#include <boost/json/fwd.hpp>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/chat.h"
#include "server/chat/api_error.h"

namespace tandem::server {

// A string, or items: messages of any role (developer becomes system), reasoning, calls of
// functions and custom tools and their outputs. What follows each other of the assistant's is one
// message. Parts that this model cannot read become a line that says so; items of other servers'
// tools are left out.
Result<std::vector<ChatMessage>, ApiError> parse_input(const boost::json::value& input);

}  // namespace tandem::server
