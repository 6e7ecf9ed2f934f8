// The keys that chat and text completions share (serving/spec.md §4.2).
#pragma once

#include "server/chat/chat_request.h"
#include "server/chat/json_fields.h"

namespace tandem::server {

// Checks model, sampling, lengths, stops and stream.
void read_generation_options(FieldReader& fields,
                             const RequestLimits& limits,
                             GenerationOptions& options);

}  // namespace tandem::server
