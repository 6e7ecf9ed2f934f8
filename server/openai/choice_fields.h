// What the choices of chat and text completions have in common, beside their text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "server/chat/chat_choice.h"

namespace tandem::server {

// "stop", "length", "tool_calls", "repetition" or "abort".
std::string_view finish_reason(ChatChoice::End end);

// ,"stop_reason": the stop string that was met, the request's own stop token, or null.
void append_stop_reason(std::string& out, const ChatChoice& choice);

// ,"NAME":[1,2,3]
void append_ids(std::string& out, std::string_view name, std::span<const int32_t> ids);

}  // namespace tandem::server
