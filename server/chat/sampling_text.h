// How sampling is told, under vLLM's names.
#pragma once

#include "runtime/sampling/sampling_params.h"
#include "server/http/json_writer.h"

namespace tandem::server {

// Members of an object: temperature, top_p, top_k, min_p and the three penalties.
void write_sampling(JsonWriter& json, const SamplingParams& sampling);

}  // namespace tandem::server
