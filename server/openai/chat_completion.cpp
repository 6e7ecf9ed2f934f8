#include "server/openai/chat_completion.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "server/http/json_writer.h"
#include "server/http/sse.h"
#include "server/openai/chat_request.h"
#include "server/openai/choice_fields.h"
#include "server/openai/error_body.h"
#include "server/openai/heavy_completion.h"
#include "server/openai/usage.h"

namespace tandem::server {
namespace {

constexpr std::string_view kFingerprint = "tandem-" TANDEM_VERSION;

void write_tool_calls(JsonWriter& json, const std::vector<ToolCall>& calls) {
  json.begin_array();
  for (const ToolCall& call : calls) {
    json.begin_object();
    json.key("id").string(call.id);
    json.key("type").string("function");
    json.key("function").begin_object();
    json.key("name").string(call.name);
    json.key("arguments").string(call.arguments);
    json.end_object().end_object();
  }
  json.end_array();
}

void write_token(JsonWriter& json, const Tokenizer& tokenizer, int32_t token_id, float logprob) {
  const std::string_view bytes = tokenizer.token_bytes(token_id);
  json.key("token").string(bytes);
  json.key("logprob").number(finite_logprob(logprob));
  json.key("bytes").begin_array();
  for (const char byte : bytes) json.integer(static_cast<unsigned char>(byte));
  json.end_array();
}

// The role that the answer is of, as vLLM has it: without a generation prompt, whose turn it is.
const std::string& role_of(const ChatPrompt& prompt) {
  static const std::string kAssistant = "assistant";
  const bool opens_answer = prompt.add_generation_prompt || prompt.messages.empty();
  return opens_answer ? kAssistant : prompt.messages.back().role;
}

// The last message, where it is of the answer's own role.
std::string echo_of(const ChatRequest& request) {
  const auto& messages = request.prompt.messages;
  const bool echoes =
      request.echo && !messages.empty() && messages.back().role == role_of(request.prompt);
  return echoes ? messages.back().content : std::string();
}

}  // namespace

Result<PreparedChat, ApiError> prepare_chat(std::string_view body, const ServedModel& model) {
  auto request = parse_chat_request(body, request_limits(model));
  if (!request) return request.error();
  return prepare_chat(std::move(*request), model);
}

Result<std::unique_ptr<Exchange>, ApiError> open_chat_completion(std::string_view body,
                                                                 const ServedModel& model) {
  auto chat = prepare_chat(body, model);
  if (!chat) return chat.error();
  if (chat->request.heavy) {
    return std::unique_ptr<Exchange>(std::make_unique<HeavyCompletion>(std::move(*chat), model));
  }
  return std::unique_ptr<Exchange>(std::make_unique<ChatCompletion>(std::move(*chat), model));
}

ChatCompletion::ChatCompletion(PreparedChat chat, const ServedModel& served)
    : ChatExchange(std::move(chat), served, "chatcmpl-"),
      role_(role_of(request().prompt)),
      echo_(echo_of(request())),
      messages_(num_choices(), AssistantMessage{.content = echo_}) {
  head_json_ = fmt::format("\"created\":{},\"model\":", unix_time_s());
  append_json_string(head_json_, model_name());
  head_json_ += fmt::format(",\"system_fingerprint\":\"{}\"", kFingerprint);
  chunk_head_ = fmt::format("{{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",{},\"choices\":[",
                            id(), head_json_);
}

void ChatCompletion::on_begin(int32_t choice_idx, std::string& frames) {
  if (!streams()) return;
  begin_chunk(choice_idx, frames);
  frames += "\"role\":\"" + role_ + "\",\"content\":\"\"";
  frames += "},\"logprobs\":null,\"finish_reason\":null";
  const bool is_first = !std::exchange(has_begun_, true);
  end_chunk(choice_idx, frames, is_first && request().return_token_ids);
  if (echo_.empty()) return;
  begin_chunk(choice_idx, frames);
  frames += "\"content\":";
  append_json_string(frames, echo_);
  frames += "},\"logprobs\":null,\"finish_reason\":null";
  end_chunk(choice_idx, frames);
}

void ChatCompletion::on_deltas(int32_t choice_idx,
                               std::span<const AssistantDelta> deltas,
                               std::string& frames) {
  AssistantMessage& message = messages_[static_cast<size_t>(choice_idx)];
  for (const AssistantDelta& delta : deltas) {
    if (streams()) {
      append_delta(choice_idx, delta, frames);
      continue;
    }
    switch (delta.kind) {
      case AssistantDelta::Kind::kReasoning:
        message.reasoning += delta.text;
        break;
      case AssistantDelta::Kind::kContent:
        message.content += delta.text;
        break;
      case AssistantDelta::Kind::kToolCallBegin:
        message.tool_calls.push_back({delta.call_id, delta.call_name, ""});
        break;
      case AssistantDelta::Kind::kToolCallArguments:
        message.tool_calls[static_cast<size_t>(delta.call_idx)].arguments += delta.text;
        break;
    }
  }
}

// The last chunk of a choice carries its usage as well: Kimi's own client reads it there.
void ChatCompletion::on_end(int32_t choice_idx, std::string& frames) {
  ChatChoice& state = choice(static_cast<size_t>(choice_idx));
  std::vector<TokenEvent> tokens = state.take_logprobs();
  if (!streams()) {
    AssistantMessage& message = messages_[static_cast<size_t>(choice_idx)];
    message.logprobs = std::move(tokens);
    message.token_ids = state.take_token_ids();
    return;
  }
  begin_chunk(choice_idx, frames);
  frames += "}";
  append_logprobs(frames, tokens);
  frames += fmt::format(",\"finish_reason\":\"{}\"", finish_reason(state.end()));
  append_stop_reason(frames, state);
  append_token_ids(frames, state.take_token_ids());
  append_invalid_calls(frames, invalid_calls(static_cast<size_t>(choice_idx)));
  frames += ",\"usage\":";
  JsonWriter json(frames);
  write_usage(json, state.usage());
  end_chunk(choice_idx, frames);
}

void ChatCompletion::begin_chunk(int32_t choice_idx, std::string& frames) const {
  frames += kSseData;
  frames += chunk_head_;
  frames += "{\"index\":";
  frames += std::to_string(choice_idx);
  frames += ",\"delta\":{";
}

void ChatCompletion::append_delta(int32_t choice_idx,
                                  const AssistantDelta& delta,
                                  std::string& frames) {
  if (delta.kind == AssistantDelta::Kind::kReasoning && !request().include_reasoning) return;
  begin_chunk(choice_idx, frames);
  std::vector<TokenEvent> tokens;
  switch (delta.kind) {
    case AssistantDelta::Kind::kReasoning: {
      std::string text;
      append_json_string(text, delta.text);
      frames += "\"reasoning_content\":" + text + ",\"reasoning\":" + text;
      break;
    }
    case AssistantDelta::Kind::kContent:
      frames += "\"content\":";
      append_json_string(frames, delta.text);
      tokens = choice(static_cast<size_t>(choice_idx)).take_logprobs();
      break;
    case AssistantDelta::Kind::kToolCallBegin:
      frames += "\"tool_calls\":[{\"index\":" + std::to_string(delta.call_idx) + ",\"id\":";
      append_json_string(frames, delta.call_id);
      frames += ",\"type\":\"function\",\"function\":{\"name\":";
      append_json_string(frames, delta.call_name);
      frames += ",\"arguments\":\"\"}}]";
      break;
    case AssistantDelta::Kind::kToolCallArguments:
      frames += "\"tool_calls\":[{\"index\":" + std::to_string(delta.call_idx) +
                ",\"function\":{\"arguments\":";
      append_json_string(frames, delta.text);
      frames += "}}]";
      break;
  }
  frames += "}";
  append_logprobs(frames, tokens);
  frames += ",\"finish_reason\":null";
  ChatChoice& state = choice(static_cast<size_t>(choice_idx));
  append_token_ids(frames, state.take_token_ids(static_cast<size_t>(delta.num_tokens)));
  end_chunk(choice_idx, frames);
}

void ChatCompletion::end_chunk(int32_t choice_idx, std::string& frames, bool with_prompt) const {
  frames += "}]";
  if (with_prompt) append_ids(frames, "prompt_token_ids", prompt_ids());
  if (request().continuous_usage) {
    TokenUsage usage = choice(static_cast<size_t>(choice_idx)).usage();
    usage.prompt_tokens = num_prompt_tokens();
    frames += ",\"usage\":";
    JsonWriter json(frames);
    write_usage(json, usage);
  }
  frames += "}\n\n";
}

// A token whose text is held back comes with the chunk that shows the text.
void ChatCompletion::append_token_ids(std::string& out, std::span<const int32_t> ids) const {
  if (request().return_token_ids && request().include_reasoning) append_ids(out, "token_ids", ids);
}

// Null where there are none: not asked for, or no content in this chunk.
void ChatCompletion::append_logprobs(std::string& out, std::span<const TokenEvent> tokens) const {
  out += ",\"logprobs\":";
  if (!request().logprobs || (streams() && tokens.empty())) {
    out += "null";
    return;
  }
  JsonWriter json(out);
  json.begin_object().key("content").begin_array();
  for (const TokenEvent& token : tokens) {
    json.begin_object();
    write_token(json, *model().tokenizer, token.token_id, token.logprob);
    json.key("top_logprobs").begin_array();
    for (const TokenLogprob& alternative : best_logprobs(token, request().top_logprobs)) {
      json.begin_object();
      write_token(json, *model().tokenizer, alternative.token_id, alternative.logprob);
      json.end_object();
    }
    json.end_array().end_object();
  }
  json.end_array().key("refusal").null().end_object();
}

void ChatCompletion::append_stream_end(std::string& frames) {
  if (!error() && !trajectories_json_.empty()) {
    append_sse_data(frames, chunk_head_ + "],\"trajectories\":" + trajectories_json_ + "}");
  }
  if (error()) {
    append_sse_data(frames, error_json(*error()));
  } else if (request().include_usage) {
    frames += kSseData;
    frames += chunk_head_;
    frames += "],\"usage\":";
    JsonWriter json(frames);
    write_usage(json, usage());
    frames += "}\n\n";
  }
  append_sse_data(frames, "[DONE]");
}

std::string ChatCompletion::body() const {
  std::string out = fmt::format("{{\"id\":\"{}\",\"object\":\"chat.completion\",{},\"choices\":[",
                                id(), head_json_);
  append_choices(out);
  out += "],\"usage\":";
  JsonWriter json(out);
  write_usage(json, usage());
  if (request().prompt_logprobs >= 0) {
    out += ",\"prompt_logprobs\":";
    JsonWriter tokens(out);
    write_prompt_logprobs(tokens, *model().tokenizer, prompt_logprobs(), request().prompt_logprobs);
  }
  if (request().return_token_ids) append_ids(out, "prompt_token_ids", prompt_ids());
  if (!trajectories_json_.empty()) out += ",\"trajectories\":" + trajectories_json_;
  out += "}";
  return out;
}

void ChatCompletion::add_rollouts(const ChatCompletion& rollouts, bool shown) {
  rollout_usage_ = rollouts.usage();
  if (!shown) return;
  trajectories_json_.push_back('[');
  rollouts.append_choices(trajectories_json_);
  trajectories_json_.push_back(']');
}

TokenUsage ChatCompletion::usage() const {
  TokenUsage total = ChatExchange::usage();
  total.prompt_tokens += rollout_usage_.prompt_tokens;
  total.cached_tokens += rollout_usage_.cached_tokens;
  total.completion_tokens += rollout_usage_.completion_tokens;
  total.reasoning_tokens += rollout_usage_.reasoning_tokens;
  return total;
}

void ChatCompletion::append_choices(std::string& out) const {
  for (size_t choice_idx = 0; choice_idx < messages_.size(); ++choice_idx) {
    if (choice_idx > 0) out.push_back(',');
    append_choice(out, choice_idx);
  }
}

void ChatCompletion::append_choice(std::string& out, size_t choice_idx) const {
  const AssistantMessage& message = messages_[choice_idx];
  JsonWriter json(out);
  json.begin_object().key("index").integer(static_cast<int64_t>(choice_idx));
  json.key("message").begin_object().key("role").string(role_);
  // Null where there is no content beside something else; an empty answer is an empty string.
  const bool no_content =
      message.content.empty() && !(message.reasoning.empty() && message.tool_calls.empty());
  json.key("content");
  no_content ? json.null() : json.string(message.content);
  for (const std::string_view field : {"reasoning_content", "reasoning"}) {
    if (!request().separate_reasoning) break;
    json.key(field);
    const bool none = message.reasoning.empty() || !request().include_reasoning;
    none ? json.null() : json.string(message.reasoning);
  }
  json.key("refusal").null();
  if (!message.tool_calls.empty()) {
    json.key("tool_calls");
    write_tool_calls(json, message.tool_calls);
  }
  json.end_object();
  append_logprobs(out, message.logprobs);
  json.key("finish_reason").string(finish_reason(choice(choice_idx).end()));
  append_stop_reason(out, choice(choice_idx));
  append_token_ids(out, message.token_ids);
  append_invalid_calls(out, invalid_calls(choice_idx));
  json.end_object();
}

}  // namespace tandem::server
