// What POST /sleep and /wake_up ask for, in vLLM's query and in SGLang's body.
#pragma once

#include <string_view>

#include "runtime/base/model_memory.h"
#include "runtime/base/result.h"
#include "runtime/engine/sleep_control.h"
#include "server/chat/api_error.h"

namespace tandem::server {

struct SleepRequest {
  ModelMemory memory;  // nothing where only what comes and goes by itself is named
  SleepMode mode = SleepMode::kAbort;
};

// level 1 (weights and KV cache of the devices) or 2 (routed experts in host memory as well), or
// tags, which go before it; mode. `body` may be empty; where both have a key, the query's counts.
Result<SleepRequest, ApiError> read_sleep_request(std::string_view query, std::string_view body);
// tags; without, everything.
Result<ModelMemory, ApiError> read_wake_request(std::string_view query, std::string_view body);

}  // namespace tandem::server
