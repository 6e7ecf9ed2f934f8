// What a request of any dialect says of how it is served: its own id, its place among others, whom
// it shares KV pages with (serving/spec.md §4.2).
#pragma once

#include "server/chat/chat_request.h"
#include "server/chat/json_fields.h"

namespace tandem::server {

// request_id (or rid), priority, cache_salt (or extra_key, SGLang's).
void read_service_fields(FieldReader& fields, GenerationOptions& options);

}  // namespace tandem::server
