// POST /v1/chat/completions: the body as a struct, every known key checked for type and range
// (serving/spec.md §4.2). Unknown keys are ignored.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/sampling/sampling_params.h"
#include "runtime/tokenizer/chat.h"
#include "server/openai/errors.h"

namespace tandem::server {

// What the checks need to know about this server.
struct RequestLimits {
  int32_t max_n = 8;
  int32_t vocab_size = 0;  // ids of logit_bias and stop_token_ids are below it
};

struct ChatRequest {
  std::string model;  // "" when absent
  ChatPrompt prompt;
  std::vector<ToolDeclaration> tools;
  bool tool_calls_allowed = false;  // tools declared and tool_choice is not "none"
  bool parallel_tool_calls = true;

  SamplingParams sampling;
  std::optional<int32_t> max_tokens;  // absent: what the context leaves
  int32_t min_tokens = 0;
  bool ignore_eos = false;
  int32_t n = 1;

  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop_in_output = false;

  bool logprobs = false;
  int32_t top_logprobs = 0;

  bool stream = false;
  bool include_usage = false;
  bool include_reasoning = true;
};

Result<ChatRequest, ApiError> parse_chat_request(std::string_view body,
                                                 const RequestLimits& limits);

}  // namespace tandem::server
