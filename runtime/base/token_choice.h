// How the token behind a row of logits is chosen where nothing but the row decides: no penalties,
// no mask, no logprobs. The draw_idx-th choice of runtime/sampling's Sampler with this seed.
#pragma once

#include <cstdint>

namespace tandem {

struct TokenChoice {
  float temperature = 1.0f;  // below kGreedyTemperature: greedy
  int32_t top_k = 0;         // 0 or -1: off
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;
  uint64_t draw_idx = 0;
};

}  // namespace tandem
