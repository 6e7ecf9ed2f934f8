// Requests and answers in two lines.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "runtime/engine/engine.h"
#include "tests/runtime/engine/collecting_sink.h"
#include "tests/support/fake_model.h"

namespace tandem::tests {

// `num_tokens` tokens below `vocab_size`, a function of the seed.
inline std::vector<int32_t> make_prompt(uint32_t seed, int32_t num_tokens, int32_t vocab_size) {
  std::vector<int32_t> prompt;
  uint32_t state = seed * 2654435761u + 12345u;
  for (int32_t token_idx = 0; token_idx < num_tokens; ++token_idx) {
    state = state * 1664525u + 1013904223u;
    prompt.push_back(static_cast<int32_t>((state >> 8) % static_cast<uint32_t>(vocab_size)));
  }
  return prompt;
}

inline GenerationRequest greedy_request(std::vector<int32_t> prompt,
                                        int32_t max_new_tokens,
                                        std::shared_ptr<TokenSink> sink) {
  GenerationRequest request;
  request.prompt_ids = std::move(prompt);
  request.sampling.temperature = 0.0f;
  request.max_new_tokens = max_new_tokens;
  request.sink = std::move(sink);
  return request;
}

}  // namespace tandem::tests
