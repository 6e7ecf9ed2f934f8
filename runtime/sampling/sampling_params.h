// How the next token is chosen; defaults are K2-Thinking's recommended sampling.
#pragma once

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

namespace tandem {

struct SamplingParams {
  float temperature = 1.0f;         // 0: greedy
  float top_p = 1.0f;               // (0, 1]
  int32_t top_k = 0;                // 0 or -1: off
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // > 0; over prompt and output, as in the field
  float frequency_penalty = 0.0f;   // [-2, 2]; over the output
  float presence_penalty = 0.0f;    // [-2, 2]; over the output
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::optional<uint64_t> seed;  // absent: drawn by the engine
};

}  // namespace tandem
