// What a client did wrong, or what kept us from answering. Each dialect has its own way to say it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "runtime/engine/engine.h"

namespace tandem::server {

// A prompt that leaves no room for an answer.
struct ContextOverflow {
  int64_t prompt_tokens = 0;
  int64_t max_context_tokens = 0;
};

struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";  // OpenAI's; other dialects go by the status
  std::string param;                           // "" is null
  std::string code;                            // "" is null
  int retry_after_s = 0;
  std::optional<ContextOverflow> overflow{};
};

// "temperature: expected a number from 0 to 2, got 3": field, expectation and value in the message.
ApiError invalid_value(std::string_view param, std::string_view expected, std::string_view got);
// 400: a known field with a value that this server cannot do.
ApiError unsupported(std::string_view param, std::string_view value, std::string_view hint);
ApiError context_too_long(std::string_view param,
                          int64_t prompt_tokens,
                          int64_t max_context_tokens);
ApiError model_not_found(std::string_view model);
ApiError server_error(int status, std::string_view message, std::string_view code);
ApiError from_submit_error(const SubmitError& error);

}  // namespace tandem::server
