#include "server/dialects.h"

#include "server/anthropic/error_body.h"
#include "server/anthropic/messages_exchange.h"
#include "server/chat/health_check.h"
#include "server/openai/chat_completion.h"
#include "server/openai/error_body.h"
#include "server/openai/text_completion.h"
#include "server/responses/responses_exchange.h"

namespace tandem::server {

const Dialect& dialect_of(std::optional<Endpoint> endpoint) {
  static constexpr Dialect kOpenAi{nullptr, error_json};
  static constexpr Dialect kChatCompletion{open_chat_completion, error_json};
  static constexpr Dialect kTextCompletion{open_text_completion, error_json};
  static constexpr Dialect kResponse{open_response, error_json};
  static constexpr Dialect kHealthCheck{open_health_check, error_json};
  static constexpr Dialect kAnthropic{nullptr, anthropic_error_json};
  static constexpr Dialect kMessages{open_messages, anthropic_error_json, kSsePing};
  if (!endpoint) return kOpenAi;
  switch (*endpoint) {
    case Endpoint::kChatCompletions:
      return kChatCompletion;
    case Endpoint::kCompletions:
      return kTextCompletion;
    case Endpoint::kResponses:
      return kResponse;
    case Endpoint::kMessages:
      return kMessages;
    case Endpoint::kCountTokens:
      return kAnthropic;
    case Endpoint::kHealthGenerate:
      return kHealthCheck;
    default:
      return kOpenAi;
  }
}

HttpResponse error_response(const ApiError& error, const Dialect& dialect) {
  HttpResponse response;
  response.status = error.status;
  response.body = dialect.error_json(error);
  if (error.retry_after_s > 0) {
    response.headers.emplace_back("Retry-After", std::to_string(error.retry_after_s));
  }
  if (error.status == 401) {
    response.headers.emplace_back("WWW-Authenticate", "Bearer realm=\"tandem\"");
  }
  return response;
}

}  // namespace tandem::server
