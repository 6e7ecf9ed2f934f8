#include "server/openai/chat_request.h"

#include <fmt/format.h>

#include <limits>

#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/chat/thinking_controls.h"
#include "server/chat/tool_choice.h"
#include "server/openai/answer_format.h"
#include "server/openai/chat_messages.h"
#include "server/openai/generation_fields.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

void read_logprobs(FieldReader& fields, const RequestLimits& limits, ChatRequest& request) {
  fields.read("logprobs", request.logprobs);
  read_num_logprobs(fields, "top_logprobs", limits, request.top_logprobs);
  if (fields.ok() && request.top_logprobs > 0 && !request.logprobs) {
    fields.fail_value("top_logprobs", "logprobs: true beside it", *fields.find("top_logprobs"));
  }
  read_prompt_logprobs(fields, limits, request, request.prompt_logprobs);
}

void read_tools(FieldReader& fields, ChatRequest& request) {
  for (const std::string_view legacy : {"functions", "function_call"}) {
    if (fields.find(legacy) != nullptr) {
      fields.fail(unsupported(legacy, "the legacy form of tools", "send tools and tool_choice"));
    }
  }
  if (const json::array* tools = fields.array("tools")) {
    auto parsed = parse_tools(*tools);
    if (!parsed) return fields.fail(parsed.error());
    request.tools = std::move(parsed->declarations);
    request.prompt.tools_json = std::move(parsed->tools_json);
  }
  read_tool_choice(fields, request);
}

// The chat format is the model's own, and knows no documents.
void refuse_unsupported(FieldReader& fields) {
  const json::value* chat_template = fields.find("chat_template");
  if (chat_template != nullptr) {
    fields.fail(unsupported("chat_template", "a template of the request's own",
                            "the model's chat format is built in"));
  }
  const json::value* documents = fields.find("documents");
  if (documents != nullptr && !(documents->is_array() && documents->get_array().empty())) {
    fields.fail(
        unsupported("documents", "documents beside the messages", "put their text into a message"));
  }
  if (const json::array* modalities = fields.array("modalities")) {
    for (const json::value& modality : *modalities) {
      if (modality.is_string() && modality.get_string() == "text") continue;
      fields.fail(unsupported("modalities", json_excerpt(modality), "expected [\"text\"]"));
    }
  }
}

// {"type": "enabled" | "disabled" | "adaptive", "keep": "all", "budget_tokens": N}: Moonshot's and
// Anthropic's.
void read_thinking_object(FieldReader& fields, ChatRequest& request, ThinkingControls& controls) {
  const json::value* thinking = fields.find("thinking");
  if (thinking == nullptr || !thinking->is_object()) return;
  FieldReader entries(thinking->get_object(), "thinking.");
  const auto type = entries.string("type");
  if (type && *type != "enabled" && *type != "disabled" && *type != "adaptive") {
    entries.fail_value("type", "'enabled', 'adaptive' or 'disabled'", *entries.find("type"));
  }
  if (type == "disabled") controls.disable();
  if (entries.string("keep").value_or("") == "all") request.prompt.preserve_thinking = true;
  controls.set_budget(entries.integer("budget_tokens", 0, kMaxInt32));
  if (!entries.ok()) fields.fail(*entries.error());
}

void read_thinking(FieldReader& fields, ChatRequest& request) {
  ThinkingControls controls;
  controls.read_effort(fields, "reasoning_effort");
  if (const json::object* reasoning = fields.object("reasoning")) {
    FieldReader entries(*reasoning, "reasoning.");
    entries.ignore({"summary"});
    controls.read_effort(entries, "effort");
    if (!entries.ok()) fields.fail(*entries.error());
  }
  controls.set_budget(fields.integer("thinking_token_budget", 0, kMaxInt32));
  fields.read("preserve_thinking", request.prompt.preserve_thinking);
  fields.read("include_reasoning", request.include_reasoning);
  fields.read("separate_reasoning", request.separate_reasoning);
  if (fields.ok() && !request.separate_reasoning && !request.include_reasoning) {
    fields.fail_value("separate_reasoning", "true beside include_reasoning: false",
                      *fields.find("separate_reasoning"));
  }
  fields.read("stream_reasoning", request.stream_reasoning);
  controls.read_template_kwargs(fields, request.prompt.preserve_thinking);
  read_thinking_object(fields, request, controls);
  request.thinking_budget = controls.budget();
}

// Whether the prompt opens an answer, or leaves the last message open to go on with.
void read_prompt_end(FieldReader& fields, ChatPrompt& prompt) {
  const auto opens_answer = fields.boolean("add_generation_prompt");
  prompt.add_generation_prompt = opens_answer.value_or(true);
  fields.read("continue_final_message", prompt.continue_final_message);
  if (!fields.ok() || !prompt.continue_final_message) return;
  const bool is_open = !prompt.messages.empty() && prompt.messages.back().role == "assistant" &&
                       prompt.messages.back().tool_calls.empty();
  if (!is_open || opens_answer.value_or(false)) {
    fields.fail(invalid_value("continue_final_message",
                              "an assistant's message without calls at the end, and no "
                              "add_generation_prompt: true beside it",
                              "true"));
  }
}

// {"n": 8, "return_trajectories": true}, or true for the defaults.
void read_heavy(FieldReader& fields, const RequestLimits& limits, ChatRequest& request) {
  const json::value* value = fields.find("heavy");
  if (value == nullptr) return;
  HeavyOptions heavy{.num_trajectories = limits.max_n};
  if (value->is_object()) {
    FieldReader entries(value->get_object(), "heavy.");
    entries.read("n", 2, limits.max_n, heavy.num_trajectories);
    entries.read("return_trajectories", heavy.return_trajectories);
    if (!entries.ok()) return fields.fail(*entries.error());
  } else if (!value->is_bool()) {
    return fields.fail_value("heavy", "true or an object such as {\"n\": 8}", *value);
  } else if (!value->get_bool()) {
    return;
  }
  if (request.n != 1) return fields.fail_value("n", "1 beside heavy", *fields.find("n"));
  if (request.prompt.continue_final_message)
    return fields.fail_value("heavy", "no continue_final_message beside it", *value);
  if (request.echo) return fields.fail_value("heavy", "no echo beside it", *value);
  if (!request.separate_reasoning)
    return fields.fail_value("heavy", "no separate_reasoning: false beside it", *value);
  if (request.prompt_logprobs >= 0)
    return fields.fail_value("heavy", "no prompt_logprobs beside it", *value);
  request.heavy = heavy;
}

}  // namespace

Result<ChatRequest, ApiError> parse_chat_request(std::string_view body,
                                                 const RequestLimits& limits) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  return read_chat_request(fields, limits);
}

Result<ChatRequest, ApiError> read_chat_request(FieldReader& fields, const RequestLimits& limits) {
  ChatRequest request;
  request.prompt.preserve_thinking = limits.preserve_thinking;
  const json::array* messages = fields.array("messages");
  if (fields.ok() && messages == nullptr) {
    fields.fail(invalid_value("messages", "a list of messages", "nothing"));
  }
  if (messages != nullptr) {
    auto parsed = parse_messages(*messages);
    if (parsed) {
      request.prompt.messages = std::move(*parsed);
    } else {
      fields.fail(parsed.error());
    }
  }
  read_prompt_end(fields, request.prompt);
  fields.read("echo", request.echo);
  read_generation_options(fields, limits, request);
  read_logprobs(fields, limits, request);
  read_tools(fields, request);
  read_answer_format(fields, request);
  read_thinking(fields, request);
  read_heavy(fields, limits, request);
  refuse_unsupported(fields);
  fields.ignore({"verbosity", "prediction", "audio", "web_search_options", "moderation"});
  if (!fields.ok()) return *fields.error();
  return request;
}

}  // namespace tandem::server
