// `messages` and `tools` of a chat request.
#pragma once

#include <boost/json/fwd.hpp>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/tokenizer/chat.h"
#include "server/chat/api_error.h"

namespace tandem::server {

// Content may be a string, a list of text parts or null for every role; developer becomes system;
// arguments may be a string or an object (serving/spec.md §2.6).
Result<std::vector<ChatMessage>, ApiError> parse_messages(const boost::json::array& messages);

struct ParsedTools {
  std::vector<ToolDeclaration> declarations;
  std::string tools_json;  // for the prompt: as sent but for `cache_control`, canonical
};
Result<ParsedTools, ApiError> parse_tools(const boost::json::array& tools);

}  // namespace tandem::server
