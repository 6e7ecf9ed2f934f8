#include "server/anthropic/content_blocks.h"

#include <fmt/format.h>

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <functional>
#include <optional>

#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr std::string_view kBillingHeader = "x-anthropic-billing-header:";

void append_line(std::string& text, std::string_view line) {
  if (!text.empty()) text += '\n';
  text += line;
}

// Calls `visit` with type, fields and path of every block of a list.
using BlockVisitor = std::function<std::optional<ApiError>(std::string_view, FieldReader&)>;
std::optional<ApiError> for_each_block(const json::array& blocks,
                                       const std::string& path,
                                       const BlockVisitor& visit) {
  for (size_t block_idx = 0; block_idx < blocks.size(); ++block_idx) {
    const std::string block_path = fmt::format("{}[{}]", path, block_idx);
    if (!blocks[block_idx].is_object()) {
      return invalid_value(block_path, "a content block such as {\"type\": \"text\"}",
                           json_excerpt(blocks[block_idx]));
    }
    FieldReader fields(blocks[block_idx].get_object(), block_path + ".");
    const auto type = fields.string("type");
    if (!fields.ok()) return fields.error();
    if (!type) return invalid_value(fields.path("type"), "the type of a content block", "nothing");
    const bool is_known = *type == "text" || *type == "thinking" || *type == "tool_use" ||
                          *type == "tool_result" || *type == "document";
    if (!is_known) fields.allow_any_key();
    fields.ignore({"cache_control", "citations", "signature", "caller", "title", "context"});
    if (auto error = visit(*type, fields)) return error;
    if (!fields.ok()) return fields.error();
  }
  return std::nullopt;
}

Result<std::string_view, ApiError> required_string(FieldReader& fields, std::string_view key) {
  const auto text = fields.string(key);
  if (!fields.ok()) return *fields.error();
  if (!text) return invalid_value(fields.path(key), "a string", "nothing");
  return *text;
}

// What a block gives the model to read. A text document is its text.
Result<std::string, ApiError> readable_text(std::string_view type, FieldReader& fields) {
  if (type == "text") {
    const auto text = required_string(fields, "text");
    if (!text) return text.error();
    return std::string(*text);
  }
  if (type == "document") {
    const json::object* source = fields.object("source");
    if (source != nullptr) {
      FieldReader entries(*source, fields.path("source") + ".");
      entries.allow_any_key();  // there are many kinds
      if (entries.string("type").value_or("") == "text") {
        return std::string(entries.string("data").value_or(""));
      }
    }
  }
  return fmt::format("[{} left out: this model reads text only]", type.substr(0, 40));
}

std::optional<ApiError> read_text_or_blocks(const json::value& content,
                                            const std::string& path,
                                            std::string& text) {
  if (content.is_string()) {
    text = as_view(content.get_string());
    return std::nullopt;
  }
  if (!content.is_array()) {
    return invalid_value(path, "a string or a list of content blocks", json_excerpt(content));
  }
  return for_each_block(content.get_array(), path,
                        [&](std::string_view type, FieldReader& fields) -> std::optional<ApiError> {
                          const auto piece = readable_text(type, fields);
                          if (!piece) return piece.error();
                          append_line(text, *piece);
                          return std::nullopt;
                        });
}

std::optional<ApiError> read_tool_result(FieldReader& fields, ChatMessage& message) {
  message.role = "tool";
  const auto id = required_string(fields, "tool_use_id");
  if (!id) return id.error();
  message.tool_call_id = *id;
  const bool is_error = fields.boolean("is_error").value_or(false);
  if (!fields.ok()) return fields.error();
  if (const json::value* content = fields.find("content")) {
    auto error = read_text_or_blocks(*content, fields.path("content"), message.content);
    if (error) return error;
  }
  // The model has no flag for it; Claude Code's own failures say it in the text already.
  if (is_error && !message.content.starts_with("<tool_use_error>")) {
    message.content.insert(0, "Error: ");
  }
  return std::nullopt;
}

// Text before a tool result is a user message of its own, so that the order is kept.
std::optional<ApiError> read_user_blocks(const json::array& blocks,
                                         const std::string& path,
                                         std::vector<ChatMessage>& messages) {
  std::string text;
  bool has_text = false;
  const auto flush = [&] {
    if (!has_text) return;
    ChatMessage& message = messages.emplace_back();
    message.role = "user";
    message.content = std::move(text);
    text.clear();
    has_text = false;
  };
  auto error = for_each_block(
      blocks, path, [&](std::string_view type, FieldReader& fields) -> std::optional<ApiError> {
        if (type == "tool_result") {
          flush();
          return read_tool_result(fields, messages.emplace_back());
        }
        const auto piece = readable_text(type, fields);
        if (!piece) return piece.error();
        append_line(text, *piece);
        has_text = true;
        return std::nullopt;
      });
  if (error) return error;
  has_text |= blocks.empty();
  flush();
  return std::nullopt;
}

std::optional<ApiError> read_tool_use(FieldReader& fields, ToolCall& call) {
  const auto id = required_string(fields, "id");
  if (!id) return id.error();
  const auto name = required_string(fields, "name");
  if (!name) return name.error();
  call.id = *id;
  call.name = *name;
  const json::object* input = fields.object("input");
  call.arguments = input == nullptr ? "{}" : json_text(*fields.find("input"));
  return fields.error();
}

// The server's own blocks come back as they were sent: pieces of text belong together.
std::optional<ApiError> read_assistant_blocks(const json::array& blocks,
                                              const std::string& path,
                                              ChatMessage& message) {
  return for_each_block(blocks, path,
                        [&](std::string_view type, FieldReader& fields) -> std::optional<ApiError> {
                          if (type == "thinking") {
                            message.reasoning_content += fields.string("thinking").value_or("");
                            return std::nullopt;
                          }
                          if (type == "tool_use")
                            return read_tool_use(fields, message.tool_calls.emplace_back());
                          if (type != "text")
                            return std::nullopt;  // of other servers: nothing that we can use
                          const auto text = required_string(fields, "text");
                          if (!text) return text.error();
                          message.content += *text;
                          return std::nullopt;
                        });
}

std::optional<ApiError> read_message(const json::value& value,
                                     const std::string& path,
                                     std::vector<ChatMessage>& messages) {
  if (!value.is_object()) return invalid_value(path, "a message object", json_excerpt(value));
  FieldReader fields(value.get_object(), path + ".");
  const auto role = fields.string("role");
  if (!fields.ok()) return fields.error();
  if (role != "user" && role != "assistant" && role != "system") {
    return invalid_value(fields.path("role"), "'user', 'assistant' or 'system'",
                         role ? json_excerpt(*fields.find("role")) : "nothing");
  }
  const json::value* content = fields.find("content");
  const std::string content_path = fields.path("content");
  if (content == nullptr) {
    return invalid_value(content_path, "a string or a list of content blocks", "nothing");
  }
  if (*role == "user" && content->is_array()) {
    return read_user_blocks(content->get_array(), content_path, messages);
  }
  ChatMessage& message = messages.emplace_back();
  message.role = *role;
  if (*role == "assistant" && content->is_array()) {
    return read_assistant_blocks(content->get_array(), content_path, message);
  }
  return read_text_or_blocks(*content, content_path, message.content);
}

}  // namespace

Result<std::vector<ChatMessage>, ApiError> parse_anthropic_messages(const json::array& messages) {
  if (messages.empty()) {
    return invalid_value("messages", "at least one message", "an empty list");
  }
  std::vector<ChatMessage> parsed;
  parsed.reserve(messages.size());
  for (size_t message_idx = 0; message_idx < messages.size(); ++message_idx) {
    const std::string path = fmt::format("messages[{}]", message_idx);
    if (auto error = read_message(messages[message_idx], path, parsed)) return *error;
  }
  return parsed;
}

Result<std::string, ApiError> parse_system(const json::value& system) {
  std::string text;
  if (!system.is_array()) {
    if (auto error = read_text_or_blocks(system, "system", text)) return *error;
    return text;
  }
  bool is_first = true;
  auto error = for_each_block(
      system.get_array(), "system",
      [&](std::string_view type, FieldReader& fields) -> std::optional<ApiError> {
        const auto piece = readable_text(type, fields);
        if (!piece) return piece.error();
        const bool is_header = std::exchange(is_first, false) && piece->starts_with(kBillingHeader);
        if (!is_header) append_line(text, *piece);
        return std::nullopt;
      });
  if (error) return *error;
  return text;
}

}  // namespace tandem::server
