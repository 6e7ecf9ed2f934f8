#include "server/openai/chat_choice.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "server/http/json_writer.h"

namespace tandem::server {
namespace {

// A probability of zero has no JSON number; -9999 is what the field uses.
double finite_logprob(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : -9999.0;
}

void write_token(JsonWriter& json, const Tokenizer& tokenizer, int32_t token_id, float logprob) {
  const std::string_view bytes = tokenizer.token_bytes(token_id);
  json.key("token").string(bytes);
  json.key("logprob").number(finite_logprob(logprob));
  json.key("bytes").begin_array();
  for (const char byte : bytes) json.integer(static_cast<unsigned char>(byte));
  json.end_array();
}

}  // namespace

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
  const int32_t reasoning_before = parser_.reasoning_tokens();
  parser_.push(event.token_id, deltas);
  const bool is_content = parser_.reasoning_tokens() == reasoning_before &&
                          !parser_.in_unclosed_call() && !tokenizer_.is_special(event.token_id);
  if (options_.logprobs && is_content && !parser_.stopped()) append_logprobs(event);
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

  if (event.finish_reason == FinishReason::kError) {
    end_ = End::kFailed;
    failure_ = event.error.empty() ? "the engine failed" : event.error;
  } else if (event.finish_reason == FinishReason::kAborted && !cut_) {
    end_ = End::kFailed;
    failure_ = "the answer was cut off: the server is shutting down";
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

void ChatChoice::append_logprobs(const TokenEvent& event) {
  if (!logprobs_.empty()) logprobs_.push_back(',');
  JsonWriter json(logprobs_);
  json.begin_object();
  write_token(json, tokenizer_, event.token_id, event.logprob);
  json.key("top_logprobs").begin_array();
  for (const TokenLogprob& alternative : event.top_logprobs) {
    json.begin_object();
    write_token(json, tokenizer_, alternative.token_id, alternative.logprob);
    json.end_object();
  }
  json.end_array().end_object();
}

std::string ChatChoice::take_logprobs() {
  std::string taken;
  taken.swap(logprobs_);
  return taken;
}

std::string ChatChoice::stop_reason_json() const {
  std::string out;
  if (parser_.matched_stop()) {
    append_json_string(out, *parser_.matched_stop());
  } else if (reported_stop_id_ >= 0) {
    out = std::to_string(reported_stop_id_);
  } else {
    out = "null";
  }
  return out;
}

}  // namespace tandem::server
