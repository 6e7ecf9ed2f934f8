#include "server/anthropic/messages_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "server/anthropic/content_blocks.h"
#include "server/chat/function_tools.h"
#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/chat/service_fields.h"
#include "server/chat/thinking_controls.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

void read_messages(FieldReader& fields, ChatRequest& request) {
  if (const json::value* system = fields.find("system")) {
    auto text = parse_system(*system);
    if (!text) return fields.fail(text.error());
    if (!text->empty()) {
      ChatMessage& message = request.prompt.messages.emplace_back();
      message.role = "system";
      message.content = std::move(*text);
    }
  }
  const json::array* messages = fields.array("messages");
  if (messages == nullptr) {
    return fields.fail(invalid_value("messages", "a list of messages", "nothing"));
  }
  auto parsed = parse_anthropic_messages(*messages);
  if (!parsed) return fields.fail(parsed.error());
  auto& prompt = request.prompt.messages;
  prompt.insert(prompt.end(), std::make_move_iterator(parsed->begin()),
                std::make_move_iterator(parsed->end()));
  if (prompt.empty()) return;
  const ChatMessage& last = prompt.back();
  const bool is_empty = last.content.empty() && last.reasoning_content.empty();
  request.prompt.continue_final_message =
      last.role == "assistant" && last.tool_calls.empty() && !is_empty;
}

// Tools of Anthropic's own (web_search_20250305 and the like) have no schema and are run by its
// servers: they cannot be offered, and a request that lists them is answered without.
void read_tools(FieldReader& fields, ChatRequest& request) {
  const json::array* tools = fields.array("tools");
  if (tools == nullptr) return;
  FunctionTools functions;
  for (size_t tool_idx = 0; tool_idx < tools->size(); ++tool_idx) {
    const std::string path = fmt::format("tools[{}]", tool_idx);
    const json::value& value = (*tools)[tool_idx];
    if (!value.is_object()) {
      return fields.fail(invalid_value(path, "a tool object", json_excerpt(value)));
    }
    FieldReader tool(value.get_object(), path + ".");
    const auto type = tool.string("type").value_or("custom");
    const auto name = tool.string("name");
    const auto description = tool.string("description");
    const json::object* schema = tool.object("input_schema");
    const bool is_strict = tool.boolean("strict").value_or(false);
    tool.ignore({"cache_control", "defer_loading", "allowed_callers", "input_examples",
                 "eager_input_streaming"});
    if (!tool.ok()) return fields.fail(*tool.error());
    if (type != "custom" && schema == nullptr) {
      tool.allow_any_key();
      continue;
    }
    if (!name || !is_function_name(*name)) {
      return fields.fail(invalid_value(tool.path("name"), kFunctionNameRule,
                                       name ? json_excerpt(*tool.find("name")) : "nothing"));
    }
    functions.add(*name, description, schema, is_strict);
  }
  std::move(functions).declare(request);
}

void read_tool_choice(FieldReader& fields, ChatRequest& request) {
  const json::object* choice = fields.object("tool_choice");
  if (choice == nullptr) return;
  FieldReader entries(*choice, "tool_choice.");
  const auto type = entries.string("type");
  entries.ignore({"name"});  // of a tool: read below
  if (entries.boolean("disable_parallel_tool_use").value_or(false)) {
    request.parallel_tool_calls = false;
  }
  if (!entries.ok()) return fields.fail(*entries.error());
  if (type == "none") {
    request.tool_calls_allowed = false;
  } else if (type == "any") {
    request.call_required = true;
  } else if (type == "tool") {
    const auto name = entries.string("name").value_or("");
    if (!entries.ok()) return fields.fail(*entries.error());
    const bool is_declared =
        std::any_of(request.tools.begin(), request.tools.end(),
                    [&](const ToolDeclaration& tool) { return tool.name == name; });
    if (!is_declared) {
      return fields.fail(invalid_value("tool_choice.name", "the name of a tool with a schema",
                                       fmt::format("'{}'", name.substr(0, 80))));
    }
    request.callable_tools.emplace_back(name);
    request.call_required = true;
    request.parallel_tool_calls = false;  // that tool, once
  } else if (type != "auto") {
    fields.fail(invalid_value("tool_choice.type", "'auto', 'any', 'tool' or 'none'",
                              type ? json_excerpt(*entries.find("type")) : "nothing"));
  }
  if (request.call_required && request.tools.empty()) {
    fields.fail(invalid_value("tool_choice.type", "tools beside 'any'", "none"));
  }
}

void read_thinking(FieldReader& fields, MessagesRequest& request, ThinkingControls& controls) {
  const json::object* thinking = fields.object("thinking");
  if (thinking == nullptr) return;
  FieldReader entries(*thinking, "thinking.");
  const auto type = entries.string("type");
  entries.ignore({"display"});
  controls.set_budget(entries.integer("budget_tokens", 1, kMaxInt32));
  if (!entries.ok()) return fields.fail(*entries.error());
  if (type != "enabled" && type != "adaptive" && type != "disabled") {
    return fields.fail(invalid_value("thinking.type", "'enabled', 'adaptive' or 'disabled'",
                                     type ? json_excerpt(*entries.find("type")) : "nothing"));
  }
  request.shows_thinking = type != "disabled";
  if (type == "disabled") controls.disable();
}

// {"format": {"type": "json_schema", "schema": {...}}, "effort": ...}
void read_output_config(FieldReader& fields, ChatRequest& request, ThinkingControls& controls) {
  const json::object* config = fields.object("output_config");
  if (config == nullptr) return;
  FieldReader entries(*config, "output_config.");
  controls.read_effort(entries, "effort");
  const json::object* format = entries.object("format");
  if (!entries.ok()) return fields.fail(*entries.error());
  if (format == nullptr) return;
  FieldReader members(*format, "output_config.format.");
  const auto type = members.string("type");
  const json::object* schema = members.object("schema");
  if (!members.ok()) return fields.fail(*members.error());
  if (type != "json_schema") {
    return fields.fail(invalid_value(members.path("type"), "'json_schema'",
                                     type ? json_excerpt(*members.find("type")) : "nothing"));
  }
  if (schema == nullptr) {
    return fields.fail(invalid_value(members.path("schema"), "a JSON Schema", "nothing"));
  }
  request.format = {.kind = AnswerFormat::Kind::kJsonSchema,
                    .text = json_text(*members.find("schema"), kCompactJson),
                    .field = members.path("schema")};
}

void read_stop_sequences(FieldReader& fields, ChatRequest& request) {
  const json::array* sequences = fields.array("stop_sequences");
  if (sequences == nullptr) return;
  constexpr size_t kMaxStops = 16;
  constexpr size_t kMaxStopBytes = 1024;
  const std::string expected =
      fmt::format("up to {} strings of 1 to {} bytes", kMaxStops, kMaxStopBytes);
  if (sequences->size() > kMaxStops) {
    return fields.fail_value("stop_sequences", expected, *fields.find("stop_sequences"));
  }
  for (const json::value& sequence : *sequences) {
    if (!sequence.is_string() || sequence.get_string().size() > kMaxStopBytes) {
      return fields.fail_value("stop_sequences", expected, sequence);
    }
    if (!sequence.get_string().empty()) request.stop.emplace_back(as_view(sequence.get_string()));
  }
}

void read_sampling(FieldReader& fields, ChatRequest& request) {
  fields.read("temperature", {.min = 0, .max = 2}, request.sampling.temperature);
  fields.read("top_p", {.min = 0, .max = 1, .min_excluded = true}, request.sampling.top_p);
  fields.read("top_k", -1, kMaxInt32, request.sampling.top_k);
  const auto max_tokens = fields.integer("max_tokens", 1, kMaxInt32);
  if (max_tokens) request.max_tokens = static_cast<int32_t>(*max_tokens);
  fields.read("ignore_eos", request.ignore_eos);
  fields.read("stream", request.stream);
  read_service_fields(fields, request);
}

}  // namespace

Result<MessagesRequest, ApiError> parse_messages_request(std::string_view body,
                                                         const RequestLimits& limits,
                                                         MessagesUse use) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  MessagesRequest request;
  request.chat.model = fields.string("model").value_or("");
  request.chat.prompt.preserve_thinking = limits.preserve_thinking;
  fields.read("preserve_thinking", request.chat.prompt.preserve_thinking);
  read_messages(fields, request.chat);
  read_sampling(fields, request.chat);
  read_stop_sequences(fields, request.chat);
  read_tools(fields, request.chat);
  read_tool_choice(fields, request.chat);
  ThinkingControls controls;
  read_thinking(fields, request, controls);
  controls.read_template_kwargs(fields, request.chat.prompt.preserve_thinking);
  if (fields.find("thread") != nullptr) {
    // The SDK's tool runners then go on without threads, with the whole conversation each time.
    ApiError error = unsupported("thread", "a conversation kept by the server", "send all of it");
    error.code = "thread_unsupported_request";
    fields.fail(std::move(error));
  }
  static_cast<void>(fields.object("metadata"));
  fields.ignore({"service_tier", "container", "context_management", "mcp_servers", "betas",
                 "inference_geo", "cache_control"});
  read_output_config(fields, request.chat, controls);
  request.chat.thinking_budget = controls.budget();
  if (fields.ok() && use == MessagesUse::kGenerate && !request.chat.max_tokens) {
    fields.fail(invalid_value("max_tokens", "a whole number of at least 1", "nothing"));
  }
  if (!fields.ok()) return *fields.error();
  return request;
}

}  // namespace tandem::server
