#include "server/chat/chat_choice.h"

#include <algorithm>
#include <utility>

namespace tandem::server {

ChatChoice::ChatChoice(const Tokenizer& tokenizer, Options options)
    : tokenizer_(tokenizer), options_(std::move(options)), parser_(tokenizer, options_.parser) {}

bool ChatChoice::push(const TokenEvent& event, std::vector<AssistantDelta>& deltas) {
  if (end_ != End::kRunning) return false;
  if (event.kind == TokenEvent::Kind::kToken) return push_token(event, deltas);
  finish(event, deltas);
  return false;
}

bool ChatChoice::push_token(const TokenEvent& event, std::vector<AssistantDelta>& deltas) {
  if (cut_) return false;
  ++usage_.completion_tokens;
  if (options_.token_ids) token_ids_.push_back(event.token_id);
  const int32_t reasoning_before = parser_.reasoning_tokens();
  const size_t text_begin = num_shown_bytes_ + parser_.num_hidden_bytes();
  const size_t num_deltas = deltas.size();
  parser_.push(event.token_id, deltas);
  for (size_t idx = num_deltas; idx < deltas.size(); ++idx) {
    if (deltas[idx].kind == AssistantDelta::Kind::kContent)
      num_shown_bytes_ += deltas[idx].text.size();
  }
  usage_.reasoning_tokens = parser_.reasoning_tokens();
  const bool is_reasoning = parser_.reasoning_tokens() != reasoning_before;
  const bool is_content =
      !options_.parser.parse_tool_calls ||
      (is_reasoning ? options_.parser.reasoning_in_content
                    : !parser_.in_unclosed_call() && !tokenizer_.is_special(event.token_id));
  if (options_.logprobs && is_content) logprobs_.push_back({event, text_begin});
  if (parser_.stopped()) {
    std::erase_if(logprobs_,
                  [&](const ContentToken& token) { return token.text_begin >= num_shown_bytes_; });
  }
  const bool only_call_done =
      options_.first_call_only && parser_.num_tool_calls() > 0 && !parser_.in_unclosed_call();
  cut_ = parser_.stopped() || only_call_done;
  return cut_;
}

void ChatChoice::finish(const TokenEvent& event, std::vector<AssistantDelta>& deltas) {
  const bool in_unclosed_call = parser_.in_unclosed_call();
  parser_.finish(deltas);
  usage_.prompt_tokens = event.prompt_tokens;
  usage_.cached_tokens = event.cached_tokens;
  usage_.reasoning_tokens = parser_.reasoning_tokens();
  if (!cut_) usage_.completion_tokens = event.completion_tokens;
  if (!cut_ && options_.token_ids && event.stop_token_id >= 0)
    token_ids_.push_back(event.stop_token_id);

  if (!parser_.stop_failure().empty()) {
    end_ = End::kFailed;
    error_ = {.message = parser_.stop_failure(), .param = "stop_regex", .code = "invalid_value"};
  } else if (event.finish_reason == FinishReason::kError && event.by_demand) {
    end_ = End::kFailed;
    error_ = {.message = event.error, .param = "", .code = "invalid_value"};
  } else if (event.finish_reason == FinishReason::kError) {
    end_ = End::kFailed;
    error_ =
        server_error(500, event.error.empty() ? "the engine failed" : event.error, "engine_failed");
  } else if (event.finish_reason == FinishReason::kAborted && !cut_) {
    end_ = event.error.empty() ? End::kAborted : End::kFailed;
    error_ = server_error(503, "the answer was cut off: " + event.error, "aborted");
  } else if (!cut_ && event.finish_reason == FinishReason::kRepetition) {
    end_ = End::kRepetition;
  } else if (!cut_ && (event.finish_reason == FinishReason::kLength || in_unclosed_call)) {
    end_ = End::kLength;  // a call that the model left open counts as cut, too
  } else {
    end_ = parser_.num_tool_calls() > 0 ? End::kToolCalls : End::kStop;
  }
  const auto& reported = options_.reported_stop_ids;
  if (std::find(reported.begin(), reported.end(), event.stop_token_id) != reported.end()) {
    reported_stop_id_ = event.stop_token_id;
  }
}

std::vector<TokenEvent> ChatChoice::take_logprobs() {
  std::vector<TokenEvent> taken;
  auto token = logprobs_.begin();
  for (; token != logprobs_.end(); ++token) {
    if (end_ == End::kRunning && token->text_begin >= num_shown_bytes_) break;
    taken.push_back(std::move(token->event));
  }
  logprobs_.erase(logprobs_.begin(), token);
  return taken;
}

std::vector<int32_t> ChatChoice::take_token_ids(size_t max_tokens) {
  const auto end =
      token_ids_.begin() + static_cast<std::ptrdiff_t>(std::min(max_tokens, token_ids_.size()));
  std::vector<int32_t> taken(token_ids_.begin(), end);
  token_ids_.erase(token_ids_.begin(), end);
  return taken;
}

}  // namespace tandem::server
