// The usage object of chat and text completions (serving/spec.md §2.5).
#pragma once

#include "server/chat/chat_choice.h"
#include "server/http/json_writer.h"

namespace tandem::server {

// Cached tokens also at the top, where Moonshot's clients read them.
void write_usage(JsonWriter& json, const TokenUsage& usage);

}  // namespace tandem::server
