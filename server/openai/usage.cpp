#include "server/openai/usage.h"

namespace tandem::server {

void write_usage(JsonWriter& json, const TokenUsage& usage) {
  json.begin_object();
  json.key("prompt_tokens").integer(usage.prompt_tokens);
  json.key("completion_tokens").integer(usage.completion_tokens);
  json.key("total_tokens").integer(int64_t{usage.prompt_tokens} + usage.completion_tokens);
  json.key("cached_tokens").integer(usage.cached_tokens);
  json.key("prompt_tokens_details").begin_object();
  json.key("cached_tokens").integer(usage.cached_tokens).end_object();
  json.key("completion_tokens_details").begin_object();
  json.key("reasoning_tokens").integer(usage.reasoning_tokens).end_object();
  json.end_object();
}

}  // namespace tandem::server
