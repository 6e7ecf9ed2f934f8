#include "server/openai/choice_fields.h"

#include <algorithm>
#include <cmath>

namespace tandem::server {
namespace {

void write_ranked(
    JsonWriter& json, const Tokenizer& tokenizer, int32_t token_id, float logprob, int64_t rank) {
  json.key(std::to_string(token_id)).begin_object();
  json.key("logprob").number(finite_logprob(logprob)).key("rank").integer(rank);
  json.key("decoded_token").string(tokenizer.token_bytes(token_id)).end_object();
}

}  // namespace

std::string_view finish_reason(ChatChoice::End end) {
  switch (end) {
    case ChatChoice::End::kLength:
      return "length";
    case ChatChoice::End::kToolCalls:
      return "tool_calls";
    case ChatChoice::End::kRepetition:
      return "repetition";
    case ChatChoice::End::kAborted:
      return "abort";
    default:
      return "stop";
  }
}

void append_stop_reason(std::string& out, const ChatChoice& choice) {
  out += ",\"stop_reason\":";
  if (choice.matched_stop()) {
    append_json_string(out, *choice.matched_stop());
  } else if (choice.reported_stop_id() >= 0) {
    out += std::to_string(choice.reported_stop_id());
  } else {
    out += "null";
  }
}

void append_ids(std::string& out, std::string_view name, std::span<const int32_t> ids) {
  out += ',';
  JsonWriter(out).key(name).integers(ids);
}

double finite_logprob(float logprob) {
  return std::isfinite(logprob) ? static_cast<double>(logprob) : -9999.0;
}

std::span<const TokenLogprob> best_logprobs(const TokenEvent& token, int32_t num_wanted) {
  return std::span(token.top_logprobs)
      .first(std::min(token.top_logprobs.size(), static_cast<size_t>(num_wanted)));
}

void write_prompt_logprobs(JsonWriter& json,
                           const Tokenizer& tokenizer,
                           std::span<const TokenEvent> tokens,
                           int32_t num_best) {
  json.begin_array().null();
  for (const TokenEvent& token : tokens) {
    json.begin_object();
    write_ranked(json, tokenizer, token.token_id, token.logprob, token.rank);
    int64_t rank = 0;
    for (const TokenLogprob& alternative : best_logprobs(token, num_best)) {
      ++rank;
      if (alternative.token_id == token.token_id) continue;
      write_ranked(json, tokenizer, alternative.token_id, alternative.logprob, rank);
    }
    json.end_object();
  }
  json.end_array();
}

}  // namespace tandem::server
