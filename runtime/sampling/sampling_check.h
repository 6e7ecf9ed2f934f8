// Whether sampling parameters can be used with a vocabulary.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "runtime/sampling/sampling_params.h"

namespace tandem {

// What is wrong with `params`: names the field, the value and what was expected.
std::optional<std::string> find_invalid_sampling(const SamplingParams& params, int32_t vocab_size);

}  // namespace tandem
