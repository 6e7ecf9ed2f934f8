// The keys that chat and text completions share (serving/spec.md §4.2).
#pragma once

#include <string_view>

#include "server/chat/chat_request.h"
#include "server/chat/json_fields.h"

namespace tandem::server {

// Checks model, sampling, lengths, stops and stream.
void read_generation_options(FieldReader& fields,
                             const RequestLimits& limits,
                             GenerationOptions& options);

// How many logprobs of a token are wanted: -1 is all of the vocabulary. `out` stays where the key
// is not there.
void read_num_logprobs(FieldReader& fields,
                       std::string_view key,
                       const RequestLimits& limits,
                       int32_t& out);

// The same of prompt_logprobs, which no stream has.
void read_prompt_logprobs(FieldReader& fields,
                          const RequestLimits& limits,
                          const GenerationOptions& options,
                          int32_t& out);

}  // namespace tandem::server
