#include "server/chat/api_error.h"

#include <fmt/format.h>

namespace tandem::server {

ApiError invalid_value(std::string_view param, std::string_view expected, std::string_view got) {
  ApiError error;
  error.message = fmt::format("{}: expected {}, got {}", param, expected, got);
  error.param = param;
  error.code = "invalid_value";
  return error;
}

ApiError unsupported(std::string_view param, std::string_view value, std::string_view hint) {
  ApiError error;
  error.message =
      fmt::format("{}: {} is not supported{}{}", param, value, hint.empty() ? "" : "; ", hint);
  error.param = param;
  error.code = "unsupported_parameter";
  return error;
}

ApiError context_too_long(std::string_view param,
                          int64_t prompt_tokens,
                          int64_t max_context_tokens) {
  // Agents look for this wording to start compaction (serving/spec.md §4.4).
  ApiError error;
  error.message = fmt::format(
      "This model's maximum context length is {0} tokens. However, your {2} resulted in {1} "
      "tokens, which leaves no room for an answer. Please reduce the length of the {2}.",
      max_context_tokens, prompt_tokens, param);
  error.param = param;
  error.code = "context_length_exceeded";
  error.overflow = {prompt_tokens, max_context_tokens};
  return error;
}

ApiError model_not_found(std::string_view model) {
  ApiError error;
  error.status = 404;
  error.message =
      fmt::format("The model '{}' does not exist; GET /v1/models lists what is served.", model);
  error.param = "model";
  error.code = "model_not_found";
  return error;
}

ApiError server_error(int status, std::string_view message, std::string_view code) {
  ApiError error;
  error.status = status;
  error.message = message;
  error.type = "server_error";
  error.code = code;
  if (status == 503) error.retry_after_s = 5;
  return error;
}

ApiError from_submit_error(const SubmitError& submit_error) {
  ApiError error;
  switch (submit_error.kind) {
    case SubmitError::Kind::kQueueFull:
      error = server_error(429, submit_error.message, "queue_full");
      error.type = "rate_limit_error";
      error.retry_after_s = 1;
      break;
    case SubmitError::Kind::kContextTooLong:
      error.message = submit_error.message;
      error.param = "messages";
      error.code = "context_length_exceeded";
      break;
    case SubmitError::Kind::kInvalid:
      error.message = submit_error.message;
      error.code = "invalid_value";
      break;
    case SubmitError::Kind::kDraining:
      error = server_error(503, submit_error.message, "shutting_down");
      break;
    case SubmitError::Kind::kSleeping:
      error =
          server_error(503, submit_error.message + "; POST /wake_up wakes it", "model_sleeping");
      break;
    case SubmitError::Kind::kFailed:
      error = server_error(503, submit_error.message, "engine_failed");
      break;
  }
  if (error.message.empty()) error.message = "the engine did not take the request";
  return error;
}

}  // namespace tandem::server
