#include "server/responses/responses_request.h"

#include <fmt/format.h>

#include <array>
#include <limits>

#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/chat/service_fields.h"
#include "server/chat/thinking_controls.h"
#include "server/chat/tool_choice.h"
#include "server/http/json_writer.h"
#include "server/responses/input_items.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxInt32 = std::numeric_limits<int32_t>::max();

void read_input(FieldReader& fields, ChatRequest& request) {
  const auto instructions = fields.string("instructions");
  if (instructions && !instructions->empty()) {
    ChatMessage& message = request.prompt.messages.emplace_back();
    message.role = "system";
    message.content = *instructions;
  }
  const json::value* input = fields.find("input");
  if (input == nullptr) {
    return fields.fail(invalid_value("input", "a string or a list of items", "nothing"));
  }
  auto parsed = parse_input(*input);
  if (!parsed) return fields.fail(parsed.error());
  auto& prompt = request.prompt.messages;
  prompt.insert(prompt.end(), std::make_move_iterator(parsed->begin()),
                std::make_move_iterator(parsed->end()));
}

void read_tools(FieldReader& fields, ResponsesRequest& request) {
  if (const json::array* tools = fields.array("tools")) {
    auto parsed = ResponseTools::parse(*tools, request.chat);
    if (!parsed) return fields.fail(parsed.error());
    request.tools = std::move(*parsed);
  }
  read_tool_choice(fields, request.chat, ResponseTools::model_name);
}

void read_text_format(FieldReader& fields, ChatRequest& request) {
  const json::object* text = fields.object("text");
  if (text == nullptr) return;
  FieldReader entries(*text, "text.");
  const json::object* format = entries.object("format");
  entries.ignore({"verbosity"});
  if (!entries.ok()) return fields.fail(*entries.error());
  if (format == nullptr) return;
  FieldReader members(*format, "text.format.");
  const auto type = members.string("type");
  const json::object* schema = members.object("schema");
  members.ignore({"name", "description", "strict"});
  if (!members.ok()) return fields.fail(*members.error());
  if (type == "text") return;
  if (type == "json_object") {
    request.format = {.kind = AnswerFormat::Kind::kJsonObject, .field = members.path("type")};
    return;
  }
  if (type == "json_schema") {
    if (schema == nullptr) {
      return fields.fail(invalid_value(members.path("schema"), "a JSON Schema", "nothing"));
    }
    request.format = {.kind = AnswerFormat::Kind::kJsonSchema,
                      .text = json_text(*members.find("schema"), kCompactJson),
                      .field = members.path("schema")};
    return;
  }
  fields.fail(invalid_value("text.format.type", "'text', 'json_object' or 'json_schema'",
                            type ? json_excerpt(*members.find("type")) : "nothing"));
}

// {"effort": "medium", "summary": "auto"}, and other servers' way to say it.
void read_thinking(FieldReader& fields, ChatRequest& request) {
  ThinkingControls controls;
  controls.read_template_kwargs(fields, request.prompt.preserve_thinking);
  if (const json::object* reasoning = fields.object("reasoning")) {
    FieldReader entries(*reasoning, "reasoning.");
    controls.read_effort(entries, "effort");
    entries.ignore({"summary", "generate_summary", "context", "encrypted_content"});
    if (!entries.ok()) return fields.fail(*entries.error());
  }
  request.thinking_budget = controls.budget();
}

// What needs a memory of earlier answers, or an answer nobody waits for.
void refuse_stateful(FieldReader& fields) {
  constexpr std::string_view kHint = "this server stores nothing: send the whole input";
  for (const std::string_view key : {"previous_response_id", "conversation", "prompt"}) {
    if (const json::value* value = fields.find(key)) {
      fields.fail(unsupported(key, json_excerpt(*value), kHint));
    }
  }
  if (fields.boolean("background").value_or(false)) {
    fields.fail(unsupported("background", "true", "send stream: true"));
  }
}

std::string echo_of(const json::object& body) {
  struct Member {
    std::string_view key;
    std::string_view default_json;
  };
  constexpr std::array<Member, 15> kMembers = {{{"background", "false"},
                                                {"instructions", "null"},
                                                {"max_output_tokens", "null"},
                                                {"metadata", "{}"},
                                                {"parallel_tool_calls", "true"},
                                                {"previous_response_id", "null"},
                                                {"reasoning", "null"},
                                                {"service_tier", "\"default\""},
                                                {"temperature", "1.0"},
                                                {"text", R"({"format":{"type":"text"}})"},
                                                {"tool_choice", "\"auto\""},
                                                {"tools", "[]"},
                                                {"top_p", "1.0"},
                                                {"truncation", "\"disabled\""},
                                                {"user", "null"}}};
  std::string echo = R"(,"store":false)";
  for (const Member& member : kMembers) {
    const json::value* value =
        body.if_contains(json::string_view(member.key.data(), member.key.size()));
    echo += ',';
    append_json_string(echo, member.key);
    echo += ':';
    if (value == nullptr || value->is_null()) {
      echo += member.default_json;
    } else {
      append_json_text(echo, *value, kWireJson);
    }
  }
  return echo;
}

}  // namespace

Result<ResponsesRequest, ApiError> parse_responses_request(std::string_view body,
                                                           const RequestLimits& limits) {
  auto document = parse_json_object(body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  ResponsesRequest request;
  ChatRequest& chat = request.chat;
  chat.prompt_field = "input";
  chat.model = fields.string("model").value_or("");
  chat.prompt.preserve_thinking = limits.preserve_thinking;
  fields.read("preserve_thinking", chat.prompt.preserve_thinking);
  read_input(fields, chat);
  fields.read("temperature", {.min = 0, .max = 2}, chat.sampling.temperature);
  fields.read("top_p", {.min = 0, .max = 1, .min_excluded = true}, chat.sampling.top_p);
  const auto max_tokens = fields.integer("max_output_tokens", 1, kMaxInt32);
  if (max_tokens) chat.max_tokens = static_cast<int32_t>(*max_tokens);
  fields.read("ignore_eos", chat.ignore_eos);
  fields.read("stream", chat.stream);
  read_service_fields(fields, chat);
  read_tools(fields, request);
  read_text_format(fields, chat);
  refuse_stateful(fields);
  read_thinking(fields, chat);
  static_cast<void>(fields.object("metadata"));
  static_cast<void>(fields.boolean("store"));
  static_cast<void>(fields.array("include"));
  fields.ignore({"service_tier", "truncation", "user", "safety_identifier", "prompt_cache_key",
                 "prompt_cache_retention", "max_tool_calls", "top_logprobs", "stream_options",
                 "client_metadata", "context_management"});
  if (!fields.ok()) return *fields.error();
  request.echo_json = echo_of(document->get_object());
  return request;
}

}  // namespace tandem::server
