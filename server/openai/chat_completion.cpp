#include "server/openai/chat_completion.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <random>

#include "server/http/json_writer.h"
#include "server/http/sse.h"
#include "server/openai/models.h"

namespace tandem::server {
namespace {

// Never chosen, whatever the logits: far below them, and finite so that no NaN can come of it.
constexpr float kForbiddenBias = -1e9f;

constexpr std::string_view kFingerprint = "tandem-" TANDEM_VERSION;

std::string random_id() {
  thread_local std::mt19937_64 generator((uint64_t{std::random_device{}()} << 32) ^
                                         std::random_device{}());
  return fmt::format("chatcmpl-{:016x}{:016x}", generator(), generator());
}

int64_t unix_time_s() {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::seconds>(now).count();
}

std::string_view finish_reason(ChatChoice::End end) {
  switch (end) {
    case ChatChoice::End::kLength:
      return "length";
    case ChatChoice::End::kToolCalls:
      return "tool_calls";
    default:
      return "stop";
  }
}

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

void write_logprobs(std::string& out, bool wanted, std::string_view entries) {
  out += ",\"logprobs\":";
  if (!wanted) {
    out += "null";
    return;
  }
  out += "{\"content\":[";
  out += entries;
  out += "],\"refusal\":null}";
}

ChatChoice::Options choice_options(const PreparedChat& chat, const ServedModel& model) {
  const ChatRequest& request = chat.request;
  ChatChoice::Options options;
  options.parser.starts_in_reasoning =
      model.generation_prompt_opens_think && request.prompt.add_generation_prompt;
  options.parser.num_history_tool_calls = chat.num_history_tool_calls;
  options.parser.tools = request.tools;
  options.parser.stop = request.stop;
  options.parser.include_stop_in_output = request.include_stop_in_output;
  options.first_call_only = !request.parallel_tool_calls;
  options.logprobs = request.logprobs;
  options.reported_stop_ids = request.stop_token_ids;
  return options;
}

}  // namespace

Result<PreparedChat, ApiError> prepare_chat(std::string_view body, const ServedModel& model) {
  auto request = parse_chat_request(body, {.max_n = model.max_n, .vocab_size = model.vocab_size});
  if (!request) return request.error();
  if (!request->model.empty() && !is_served(model, request->model)) {
    return model_not_found(request->model);
  }
  PreparedChat chat;
  RenderedPrompt prompt = render_chat(*model.tokenizer, request->prompt);
  const auto num_prompt_tokens = static_cast<int64_t>(prompt.ids.size());
  const int64_t room = model.max_context_tokens - num_prompt_tokens;
  if (room < 1) return context_too_long(num_prompt_tokens, model.max_context_tokens);
  // Clamped, not refused: agents send the limit of another model (serving/clients.md).
  chat.max_new_tokens = static_cast<int32_t>(
      std::min<int64_t>(room, request->max_tokens.value_or(static_cast<int32_t>(room))));
  chat.num_history_tool_calls = prompt.num_tool_calls;
  chat.prompt_ids = std::move(prompt.ids);
  chat.request = std::move(*request);
  return chat;
}

GenerationRequest generation_request(const PreparedChat& chat,
                                     const ServedModel& model,
                                     int32_t choice_idx) {
  const ChatRequest& request = chat.request;
  GenerationRequest generation;
  generation.prompt_ids = chat.prompt_ids;
  generation.sampling = request.sampling;
  if (generation.sampling.seed) *generation.sampling.seed += static_cast<uint64_t>(choice_idx);
  if (!request.tool_calls_allowed) {
    const SpecialTokens& specials = model.tokenizer->specials();
    for (const int32_t marker : {specials.tool_calls_section_begin, specials.tool_call_begin}) {
      if (marker < 0 || marker >= model.vocab_size) continue;
      generation.sampling.logit_bias.emplace_back(marker, kForbiddenBias);
    }
  }
  generation.max_new_tokens = chat.max_new_tokens;
  generation.min_new_tokens = std::min(request.min_tokens, chat.max_new_tokens);
  generation.stop_token_ids = model.stop_token_ids;
  generation.stop_token_ids.insert(generation.stop_token_ids.end(), request.stop_token_ids.begin(),
                                   request.stop_token_ids.end());
  generation.ignore_eos = request.ignore_eos;
  generation.num_logprobs = request.logprobs ? request.top_logprobs : -1;
  return generation;
}

ChatCompletion::ChatCompletion(const PreparedChat& chat, const ServedModel& model)
    : stream_(chat.request.stream),
      include_usage_(chat.request.include_usage),
      include_reasoning_(chat.request.include_reasoning),
      logprobs_(chat.request.logprobs),
      id_(random_id()) {
  const std::string& name = chat.request.model.empty() ? model.names.front() : chat.request.model;
  head_json_ = fmt::format("\"created\":{},\"model\":", unix_time_s());
  append_json_string(head_json_, name);
  head_json_ += fmt::format(",\"system_fingerprint\":\"{}\"", kFingerprint);
  chunk_head_ = fmt::format("{{\"id\":\"{}\",\"object\":\"chat.completion.chunk\",{},\"choices\":[",
                            id_, head_json_);
  const ChatChoice::Options options = choice_options(chat, model);
  choices_.reserve(static_cast<size_t>(chat.request.n));
  for (int32_t choice_idx = 0; choice_idx < chat.request.n; ++choice_idx) {
    choices_.push_back({ChatChoice(*model.tokenizer, options), false, {}, {}, {}, {}});
  }
}

bool ChatCompletion::push(int32_t choice_idx, const TokenEvent& event, std::string& frames) {
  Choice& choice = choices_[static_cast<size_t>(choice_idx)];
  deltas_.clear();
  const bool enough = choice.state.push(event, deltas_);
  if (choice.state.end() == ChatChoice::End::kFailed) {
    const bool aborted = event.finish_reason == FinishReason::kAborted;
    error_ = server_error(aborted ? 503 : 500, choice.state.failure(),
                          aborted ? "aborted" : "engine_failed");
    return false;
  }
  if (!stream_) {
    for (const AssistantDelta& delta : deltas_) collect(choice, delta);
    if (choice.state.end() != ChatChoice::End::kRunning) {
      choice.logprobs = choice.state.take_logprobs();
    }
    return enough;
  }
  if (!choice.announced) {
    choice.announced = true;
    begin_chunk(choice_idx, frames);
    frames +=
        "\"role\":\"assistant\",\"content\":\"\"},\"logprobs\":null,\"finish_reason\":null}]}\n\n";
  }
  for (const AssistantDelta& delta : deltas_) append_delta(choice_idx, delta, frames);
  if (choice.state.end() != ChatChoice::End::kRunning) append_end(choice_idx, frames);
  return enough;
}

bool ChatCompletion::finished() const {
  if (error_) return true;
  return std::all_of(choices_.begin(), choices_.end(), [](const Choice& choice) {
    return choice.state.end() != ChatChoice::End::kRunning;
  });
}

void ChatCompletion::collect(Choice& choice, const AssistantDelta& delta) const {
  switch (delta.kind) {
    case AssistantDelta::Kind::kReasoning:
      choice.reasoning += delta.text;
      break;
    case AssistantDelta::Kind::kContent:
      choice.content += delta.text;
      break;
    case AssistantDelta::Kind::kToolCallBegin:
      choice.tool_calls.push_back({delta.call_id, delta.call_name, ""});
      break;
    case AssistantDelta::Kind::kToolCallArguments:
      choice.tool_calls[static_cast<size_t>(delta.call_idx)].arguments += delta.text;
      break;
  }
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
  if (delta.kind == AssistantDelta::Kind::kReasoning && !include_reasoning_) return;
  begin_chunk(choice_idx, frames);
  std::string entries;
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
      if (logprobs_) entries = choices_[static_cast<size_t>(choice_idx)].state.take_logprobs();
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
  write_logprobs(frames, !entries.empty(), entries);
  frames += ",\"finish_reason\":null}]}\n\n";
}

// The last chunk of a choice carries its usage as well: Kimi's own client reads it there.
void ChatCompletion::append_end(int32_t choice_idx, std::string& frames) {
  ChatChoice& state = choices_[static_cast<size_t>(choice_idx)].state;
  const std::string entries = state.take_logprobs();
  begin_chunk(choice_idx, frames);
  frames += "}";
  write_logprobs(frames, !entries.empty(), entries);
  frames += fmt::format(",\"finish_reason\":\"{}\",\"stop_reason\":{},\"usage\":",
                        finish_reason(state.end()), state.stop_reason_json());
  JsonWriter json(frames);
  write_usage(json, state.usage());
  frames += "}]}\n\n";
}

void ChatCompletion::append_stream_end(std::string& frames) const {
  if (error_) {
    append_sse_data(frames, error_json(*error_));
  } else if (include_usage_) {
    frames += kSseData;
    frames += chunk_head_;
    frames += "],\"usage\":";
    JsonWriter json(frames);
    write_usage(json, total_usage());
    frames += "}\n\n";
  }
  append_sse_data(frames, "[DONE]");
}

TokenUsage ChatCompletion::total_usage() const {
  // The prompt counts once, however many choices share it.
  TokenUsage total = choices_.front().state.usage();
  for (size_t choice_idx = 1; choice_idx < choices_.size(); ++choice_idx) {
    const TokenUsage& usage = choices_[choice_idx].state.usage();
    total.completion_tokens += usage.completion_tokens;
    total.reasoning_tokens += usage.reasoning_tokens;
  }
  return total;
}

std::string ChatCompletion::body() const {
  std::string out = fmt::format("{{\"id\":\"{}\",\"object\":\"chat.completion\",{},\"choices\":[",
                                id_, head_json_);
  for (size_t choice_idx = 0; choice_idx < choices_.size(); ++choice_idx) {
    const Choice& choice = choices_[choice_idx];
    if (choice_idx > 0) out.push_back(',');
    JsonWriter json(out);
    json.begin_object().key("index").integer(static_cast<int64_t>(choice_idx));
    json.key("message").begin_object().key("role").string("assistant");
    // Null where there is no content beside something else; an empty answer is an empty string.
    const bool no_content =
        choice.content.empty() && !(choice.reasoning.empty() && choice.tool_calls.empty());
    json.key("content");
    no_content ? json.null() : json.string(choice.content);
    for (const std::string_view field : {"reasoning_content", "reasoning"}) {
      json.key(field);
      const bool none = choice.reasoning.empty() || !include_reasoning_;
      none ? json.null() : json.string(choice.reasoning);
    }
    json.key("refusal").null();
    if (!choice.tool_calls.empty()) {
      json.key("tool_calls");
      write_tool_calls(json, choice.tool_calls);
    }
    json.end_object();
    write_logprobs(out, logprobs_, choice.logprobs);
    json.key("finish_reason").string(finish_reason(choice.state.end()));
    json.key("stop_reason").raw(choice.state.stop_reason_json());
    json.end_object();
  }
  out += "],\"usage\":";
  JsonWriter json(out);
  write_usage(json, total_usage());
  out += "}";
  return out;
}

}  // namespace tandem::server
