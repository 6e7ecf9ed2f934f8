#include "server/chat/sampling_text.h"

namespace tandem::server {

void write_sampling(JsonWriter& json, const SamplingParams& sampling) {
  json.key("temperature").number(static_cast<double>(sampling.temperature));
  json.key("top_p").number(static_cast<double>(sampling.top_p));
  json.key("top_k").integer(sampling.top_k);
  json.key("min_p").number(static_cast<double>(sampling.min_p));
  json.key("repetition_penalty").number(static_cast<double>(sampling.repetition_penalty));
  json.key("frequency_penalty").number(static_cast<double>(sampling.frequency_penalty));
  json.key("presence_penalty").number(static_cast<double>(sampling.presence_penalty));
}

}  // namespace tandem::server
