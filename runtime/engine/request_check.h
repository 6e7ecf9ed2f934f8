// Whether a request can be run at all: everything submit() refuses for what the request says.
#pragma once

#include <cstdint>
#include <optional>

#include "runtime/engine/engine.h"

namespace tandem {

struct RequestLimits {
  int32_t vocab_size = 0;
  int32_t max_context_tokens = 0;  // of the model, and what the KV pages hold
};

std::optional<SubmitError> find_invalid_request(const GenerationRequest& request,
                                                const RequestLimits& limits);

}  // namespace tandem
