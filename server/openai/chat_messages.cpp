#include "server/openai/chat_messages.h"

#include <fmt/format.h>

#include <optional>

#include "server/chat/function_tools.h"
#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

// Joins the text of the parts without a separator, as the template does.
std::optional<ApiError> append_part(const json::value& part,
                                    const std::string& path,
                                    std::string& text) {
  if (part.is_string()) {
    text += as_view(part.get_string());
    return std::nullopt;
  }
  if (!part.is_object()) {
    return invalid_value(path, "a content part such as {\"type\": \"text\"}", json_excerpt(part));
  }
  FieldReader fields(part.get_object(), path + ".");
  const auto type = fields.string("type");
  if (!fields.ok()) return fields.error();
  const std::string_view kind = type.value_or("text");
  fields.ignore({"cache_control", "annotations"});
  if (kind != "text" && kind != "refusal") {
    return unsupported(path + ".type", fmt::format("a content part of type '{}'", kind),
                       "this model reads text parts only");
  }
  const auto content = fields.string(kind);
  if (!fields.ok()) return fields.error();
  if (!content) return invalid_value(path + "." + std::string(kind), "a string", "nothing");
  text += *content;
  return std::nullopt;
}

std::optional<ApiError> read_content(const FieldReader& fields, std::string& text) {
  const json::value* content = fields.find("content");
  if (content == nullptr) return std::nullopt;
  const std::string path = fields.path("content");
  if (content->is_string()) {
    text = as_view(content->get_string());
    return std::nullopt;
  }
  if (!content->is_array()) {
    return invalid_value(path, "a string, a list of text parts or null", json_excerpt(*content));
  }
  const json::array& parts = content->get_array();
  for (size_t part_idx = 0; part_idx < parts.size(); ++part_idx) {
    auto error = append_part(parts[part_idx], fmt::format("{}[{}]", path, part_idx), text);
    if (error) return error;
  }
  return std::nullopt;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::optional<ApiError> read_tool_call(const json::value& value,
                                       const std::string& path,
                                       ToolCall& call) {
  if (!value.is_object()) return invalid_value(path, "a tool call object", json_excerpt(value));
  FieldReader fields(value.get_object(), path + ".");
  const auto type = fields.string("type");
  if (type && *type != "function") {
    return unsupported(path + ".type", fmt::format("a tool call of type '{}'", *type),
                       "expected 'function'");
  }
  call.id = fields.string("id").value_or("");
  fields.ignore({"index"});  // of the delta that it was
  const json::object* function = fields.object("function");
  if (!fields.ok()) return fields.error();
  if (function == nullptr) return invalid_value(path + ".function", "an object", "nothing");

  FieldReader body(*function, path + ".function.");
  const auto name = body.string("name");
  if (!body.ok()) return body.error();
  if (!name || name->empty()) {
    return invalid_value(body.path("name"), "the name of a function", "nothing");
  }
  call.name = *name;
  const json::value* arguments = body.find("arguments");
  if (arguments == nullptr) {
    call.arguments = "{}";
  } else if (arguments->is_string()) {
    const std::string_view text = as_view(arguments->get_string());
    call.arguments = is_blank(text) ? "{}" : text;
  } else if (arguments->is_object()) {
    call.arguments = json_text(*arguments);
  } else {
    return invalid_value(body.path("arguments"), "JSON in a string, or an object",
                         json_excerpt(*arguments));
  }
  return std::nullopt;
}

std::optional<ApiError> read_tool_calls(FieldReader& fields, ChatMessage& message) {
  if (fields.find("function_call") != nullptr) {
    return unsupported(fields.path("function_call"), "a legacy function call",
                       "send tool_calls instead");
  }
  const json::array* calls = fields.array("tool_calls");
  if (!fields.ok()) return fields.error();
  if (calls == nullptr || calls->empty()) return std::nullopt;
  if (message.role != "assistant") {
    return invalid_value(fields.path("tool_calls"),
                         "tool calls in messages of role 'assistant' only",
                         fmt::format("some in one of role '{}'", message.role));
  }
  message.tool_calls.resize(calls->size());
  for (size_t call_idx = 0; call_idx < calls->size(); ++call_idx) {
    const std::string path = fmt::format("{}[{}]", fields.path("tool_calls"), call_idx);
    auto error = read_tool_call((*calls)[call_idx], path, message.tool_calls[call_idx]);
    if (error) return error;
  }
  return std::nullopt;
}

std::optional<ApiError> read_role(FieldReader& fields, std::string& role) {
  constexpr std::string_view kExpected = "one of system, developer, user, assistant, tool";
  const auto text = fields.string("role");
  if (!fields.ok()) return fields.error();
  if (!text) return invalid_value(fields.path("role"), kExpected, "nothing");
  if (*text == "function") {
    return unsupported(fields.path("role"), "the legacy role 'function'",
                       "send role 'tool' with tool_call_id");
  }
  role = *text == "developer" ? "system" : *text;
  if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
    return invalid_value(fields.path("role"), kExpected, json_excerpt(*fields.find("role")));
  }
  return std::nullopt;
}

std::optional<ApiError> read_message(const json::value& value,
                                     const std::string& path,
                                     ChatMessage& message) {
  if (!value.is_object()) return invalid_value(path, "a message object", json_excerpt(value));
  FieldReader fields(value.get_object(), path + ".");
  if (auto error = read_role(fields, message.role)) return error;
  if (auto error = read_content(fields, message.content)) return error;
  if (auto error = read_tool_calls(fields, message)) return error;
  const auto name = fields.string("name");
  const auto tool_call_id = fields.string("tool_call_id");
  // Both names are in use (serving/spec.md §2.3); a client that stores answers sends both back.
  const auto reasoning_content = fields.string("reasoning_content");
  const auto reasoning = fields.string("reasoning");
  fields.ignore({"refusal", "annotations", "audio", "cache_control",
                 "provider_specific_fields"});  // the last is LiteLLM's
  if (!fields.ok()) return fields.error();
  if (name && !name->empty()) message.name = std::string(*name);
  if (message.role == "tool") message.tool_call_id = tool_call_id.value_or("");
  if (message.role == "assistant") {
    message.reasoning_content = reasoning_content.value_or("");
    if (message.reasoning_content.empty()) message.reasoning_content = reasoning.value_or("");
  }
  return std::nullopt;
}

std::optional<ApiError> read_tool(const json::value& value,
                                  const std::string& path,
                                  ToolDeclaration& declaration) {
  if (!value.is_object()) return invalid_value(path, "a tool object", json_excerpt(value));
  FieldReader fields(value.get_object(), path + ".");
  const auto type = fields.string("type");
  fields.ignore({"cache_control"});
  if (!fields.ok()) return fields.error();
  if (!type) return invalid_value(fields.path("type"), "'function'", "nothing");
  if (*type != "function") {
    return unsupported(fields.path("type"), fmt::format("a tool of type '{}'", *type),
                       "expected 'function'");
  }
  const json::object* function = fields.object("function");
  if (!fields.ok()) return fields.error();
  if (function == nullptr) return invalid_value(fields.path("function"), "an object", "nothing");

  FieldReader body(*function, path + ".function.");
  const auto name = body.string("name");
  static_cast<void>(body.string("description"));
  const json::object* parameters = body.object("parameters");
  declaration.is_strict = body.boolean("strict").value_or(false);
  if (!body.ok()) return body.error();
  if (!name || !is_function_name(*name)) {
    return invalid_value(body.path("name"), kFunctionNameRule,
                         name ? json_excerpt(*body.find("name")) : "nothing");
  }
  declaration.name = *name;
  if (parameters != nullptr) declaration.parameters_json = json_text(*body.find("parameters"));
  return std::nullopt;
}

}  // namespace

Result<std::vector<ChatMessage>, ApiError> parse_messages(const json::array& messages) {
  if (messages.empty()) {
    return invalid_value("messages", "at least one message", "an empty list");
  }
  std::vector<ChatMessage> parsed(messages.size());
  for (size_t message_idx = 0; message_idx < messages.size(); ++message_idx) {
    const std::string path = fmt::format("messages[{}]", message_idx);
    auto error = read_message(messages[message_idx], path, parsed[message_idx]);
    if (error) return *error;
  }
  return parsed;
}

Result<ParsedTools, ApiError> parse_tools(const json::array& tools) {
  ParsedTools parsed;
  if (tools.empty()) return parsed;
  parsed.declarations.resize(tools.size());
  json::array for_prompt;
  for (size_t tool_idx = 0; tool_idx < tools.size(); ++tool_idx) {
    const std::string path = fmt::format("tools[{}]", tool_idx);
    auto error = read_tool(tools[tool_idx], path, parsed.declarations[tool_idx]);
    if (error) return *error;
    json::object tool = tools[tool_idx].get_object();
    tool.erase("cache_control");  // moves between requests and would end a shared prefix
    for_prompt.emplace_back(std::move(tool));
  }
  parsed.tools_json = canonical_tools_json(json_text(for_prompt, kCompactJson));
  return parsed;
}

}  // namespace tandem::server
