// GET /server_info, /model_info and /get_load: what runs here, under the names that tools of SGLang
// read (bench_serving, its router, dashboards); vLLM's /server_info has the first path alone in
// common.
#pragma once

#include <string>

#include "server/server_state.h"

namespace tandem::server {

// Model, limits, machine, flags given, counts of the engine. Needs the model.
std::string server_info_json(const ServerState& state);
// The checkpoint alone. Needs the model.
std::string model_info_json(const ServerState& state);
// A list of one: [{"dp_rank", "num_reqs", "num_waiting_reqs", "num_tokens"}]; zeros while loading.
std::string sglang_load_json(const ServerState& state);

}  // namespace tandem::server
