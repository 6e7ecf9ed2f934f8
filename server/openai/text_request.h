// POST /v1/completions: the body as a struct, every known key checked (serving/spec.md §4.1, 4.2).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_request.h"
#include "server/chat/served_model.h"

namespace tandem::server {

struct TextRequest : GenerationOptions {
  std::vector<std::vector<int32_t>> prompts;  // not empty, none of them is
  bool echo = false;                          // the answer begins with the prompt
  int32_t logprobs = -1;                      // -1: none; k: of every token and the k best
  int32_t prompt_logprobs = -1;               // the same of the prompt, in a field of its own
};

// `prompt` is a text, token ids, or a list of either; markers in a text become special tokens, as
// in /tokenize. A format (response_format, guided_*) holds from the first token on. max_tokens is
// 16 unless given, and may be 0 with echo.
Result<TextRequest, ApiError> parse_text_request(std::string_view body, const ServedModel& model);

}  // namespace tandem::server
