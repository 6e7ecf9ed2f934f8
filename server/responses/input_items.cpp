#include "server/responses/input_items.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <optional>

#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"
#include "server/responses/response_tools.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

using Error = std::optional<ApiError>;

bool is_text_part(std::string_view type) {
  return type == "input_text" || type == "output_text" || type == "text" ||
         type == "reasoning_text" || type == "summary_text";
}

// A string or a list of parts. The parts of what the server said belong together; others are lines.
Error read_text(const json::value& content,
                const std::string& path,
                std::string_view separator,
                std::string& text) {
  if (content.is_string()) {
    text += as_view(content.get_string());
    return std::nullopt;
  }
  if (!content.is_array()) {
    return invalid_value(path, "a string or a list of content parts", json_excerpt(content));
  }
  const json::array& parts = content.get_array();
  for (size_t part_idx = 0; part_idx < parts.size(); ++part_idx) {
    const std::string part_path = fmt::format("{}[{}]", path, part_idx);
    if (!parts[part_idx].is_object()) {
      return invalid_value(part_path, "a content part such as {\"type\": \"input_text\"}",
                           json_excerpt(parts[part_idx]));
    }
    FieldReader part(parts[part_idx].get_object(), part_path + ".");
    const auto type = part.string("type");
    if (!part.ok()) return part.error();
    if (!type) return invalid_value(part.path("type"), "the type of a content part", "nothing");
    part.ignore({"annotations", "logprobs"});
    if (part_idx > 0) text += separator;
    const std::string_view key = *type == "refusal" ? "refusal" : "text";
    if (!is_text_part(*type) && *type != "refusal") {
      part.allow_any_key();
      text += fmt::format("[{} left out: this model reads text only]", type->substr(0, 40));
      continue;
    }
    const auto piece = part.string(key);
    if (!part.ok()) return part.error();
    if (!piece) return invalid_value(part.path(key), "a string", "nothing");
    text += *piece;
  }
  return std::nullopt;
}

class InputReader {
 public:
  std::vector<ChatMessage> messages;

  Error read(FieldReader& item) {
    const auto type = item.string("type").value_or("message");
    if (!item.ok()) return item.error();
    item.ignore({"id", "status", "phase", "encrypted_content"});
    if (type == "message") return read_message(item);
    if (type == "reasoning") return read_reasoning(item);
    if (type == "function_call" || type == "custom_tool_call") return read_call(item, type);
    if (type == "function_call_output" || type == "custom_tool_call_output") {
      return read_output(item);
    }
    if (type == "item_reference") {
      return unsupported(item.path("type"), "a reference to a stored item",
                         "this server stores nothing: send the item itself");
    }
    item.allow_any_key();  // of a tool that is not here
    return std::nullopt;
  }

 private:
  // The assistant's message that is being put together; a new one when it has come further than
  // `what` already: reasoning, then text, then calls.
  enum class Stage { kReasoning, kText, kCalls };
  ChatMessage& assistant(Stage what) {
    const bool continues = !messages.empty() && messages.back().role == "assistant" &&
                           (stage_ < what || (stage_ == what && what == Stage::kCalls));
    if (!continues) messages.emplace_back().role = "assistant";
    stage_ = what;
    return messages.back();
  }

  Error read_message(FieldReader& item) {
    const auto role = item.string("role");
    if (!item.ok()) return item.error();
    const bool is_known =
        role == "user" || role == "assistant" || role == "system" || role == "developer";
    if (!is_known) {
      return invalid_value(item.path("role"), "'user', 'assistant', 'system' or 'developer'",
                           role ? json_excerpt(*item.find("role")) : "nothing");
    }
    const json::value* content = item.find("content");
    if (content == nullptr) {
      return invalid_value(item.path("content"), "a string or a list of content parts", "nothing");
    }
    if (role == "assistant") {
      return read_text(*content, item.path("content"), "", assistant(Stage::kText).content);
    }
    ChatMessage& message = messages.emplace_back();
    message.role = role == "developer" ? "system" : *role;
    return read_text(*content, item.path("content"), "\n", message.content);
  }

  Error read_reasoning(FieldReader& item) {
    std::string text;
    for (const std::string_view key : {"content", "summary"}) {
      const json::array* parts = item.array(key);
      if (!item.ok()) return item.error();
      if (parts == nullptr || !text.empty()) continue;
      if (auto error = read_text(*item.find(key), item.path(key), "", text)) return error;
    }
    assistant(Stage::kReasoning).reasoning_content = std::move(text);
    return std::nullopt;
  }

  Error read_call(FieldReader& item, std::string_view type) {
    const auto call_id = item.string("call_id");
    const auto name = item.string("name");
    const auto name_space = item.string("namespace").value_or("");
    const bool is_custom = type == "custom_tool_call";
    const std::string_view text_key = is_custom ? "input" : "arguments";
    const auto text = item.string(text_key);
    if (!item.ok()) return item.error();
    if (!call_id) return invalid_value(item.path("call_id"), "the id of the call", "nothing");
    if (!name) return invalid_value(item.path("name"), "the name of the tool", "nothing");
    if (!text) return invalid_value(item.path(text_key), "a string", "nothing");
    ToolCall& call = assistant(Stage::kCalls).tool_calls.emplace_back();
    call.id = *call_id;
    call.name = ResponseTools::model_name(*name, name_space);
    const bool is_blank = text->find_first_not_of(" \t\r\n") == std::string_view::npos;
    call.arguments = *text;
    if (is_custom) call.arguments = ResponseTools::custom_arguments(*text);
    if (!is_custom && is_blank) call.arguments = "{}";
    return std::nullopt;
  }

  Error read_output(FieldReader& item) {
    const auto call_id = item.string("call_id");
    if (!item.ok()) return item.error();
    if (!call_id) return invalid_value(item.path("call_id"), "the id of the call", "nothing");
    ChatMessage& message = messages.emplace_back();
    message.role = "tool";
    message.tool_call_id = *call_id;
    const json::value* output = item.find("output");
    if (output == nullptr) return std::nullopt;
    return read_text(*output, item.path("output"), "\n", message.content);
  }

  Stage stage_ = Stage::kReasoning;
};

}  // namespace

Result<std::vector<ChatMessage>, ApiError> parse_input(const json::value& input) {
  InputReader reader;
  if (input.is_string()) {
    ChatMessage& message = reader.messages.emplace_back();
    message.role = "user";
    message.content = as_view(input.get_string());
    return std::move(reader.messages);
  }
  if (!input.is_array() || input.get_array().empty()) {
    return invalid_value("input", "a string or a list of at least one item", json_excerpt(input));
  }
  const json::array& items = input.get_array();
  for (size_t item_idx = 0; item_idx < items.size(); ++item_idx) {
    const std::string path = fmt::format("input[{}]", item_idx);
    if (!items[item_idx].is_object()) {
      return invalid_value(path, "an item such as {\"role\": \"user\", \"content\": \"...\"}",
                           json_excerpt(items[item_idx]));
    }
    FieldReader item(items[item_idx].get_object(), path + ".");
    if (auto error = reader.read(item)) return *error;
  }
  return std::move(reader.messages);
}

}  // namespace tandem::server
