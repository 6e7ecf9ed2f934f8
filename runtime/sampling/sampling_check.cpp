#include "runtime/sampling/sampling_check.h"

#include <fmt/format.h>

#include <cmath>
#include <string_view>

namespace tandem {

std::optional<std::string> find_invalid_sampling(const SamplingParams& params, int32_t vocab_size) {
  const auto wrong = [](std::string_view field, float value, std::string_view expected) {
    return fmt::format("{} is {}, expected {}", field, value, expected);
  };
  // Comparisons are written so that NaN fails them.
  if (!(params.temperature >= 0.0f && std::isfinite(params.temperature)))
    return wrong("temperature", params.temperature, "a number of at least 0");
  if (!(params.top_p > 0.0f && params.top_p <= 1.0f))
    return wrong("top_p", params.top_p, "more than 0 and at most 1");
  if (params.top_k < -1)
    return fmt::format("top_k is {}, expected at least 1, or 0 or -1 for off", params.top_k);
  if (!(params.min_p >= 0.0f && params.min_p <= 1.0f))
    return wrong("min_p", params.min_p, "0 to 1");
  if (!(params.repetition_penalty > 0.0f && std::isfinite(params.repetition_penalty)))
    return wrong("repetition_penalty", params.repetition_penalty, "a number above 0");
  if (!(std::abs(params.frequency_penalty) <= 2.0f))
    return wrong("frequency_penalty", params.frequency_penalty, "-2 to 2");
  if (!(std::abs(params.presence_penalty) <= 2.0f))
    return wrong("presence_penalty", params.presence_penalty, "-2 to 2");
  for (const auto& [token_id, bias] : params.logit_bias) {
    if (token_id < 0 || token_id >= vocab_size)
      return fmt::format("logit_bias names token {}, expected 0 to {}", token_id, vocab_size - 1);
    if (!std::isfinite(bias))
      return fmt::format("logit_bias of token {} is {}, expected a finite number", token_id, bias);
  }
  return std::nullopt;
}

}  // namespace tandem
