// The OpenAPI document (3.1) of this server, made of its routes and of what its request readers
// read.
#pragma once

#include <string>

#include "server/server_state.h"

namespace tandem::server {

std::string openapi_json(const ServerState& state);  // with a model

}  // namespace tandem::server
