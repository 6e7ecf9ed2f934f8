#include "server/cli/chat_stream.h"

#include <boost/json.hpp>
#include <utility>

namespace tandem::cli {
namespace {

std::string text_of(const boost::json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  const auto* text = value == nullptr ? nullptr : value->if_string();
  return text == nullptr ? std::string() : std::string(*text);
}

int64_t number_of(const boost::json::object& object, std::string_view key, int64_t fallback) {
  const auto* value = object.if_contains(key);
  const auto* number = value == nullptr ? nullptr : value->if_int64();
  return number == nullptr ? fallback : *number;
}

const boost::json::object* object_of(const boost::json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  return value == nullptr ? nullptr : value->if_object();
}

const boost::json::object* first_object(const boost::json::object& object, std::string_view key) {
  const auto* value = object.if_contains(key);
  const auto* array = value == nullptr ? nullptr : value->if_array();
  return array == nullptr || array->empty() ? nullptr : array->front().if_object();
}

std::string tool_call_text(const boost::json::object& delta) {
  const auto* call = first_object(delta, "tool_calls");
  const auto* function = call == nullptr ? nullptr : object_of(*call, "function");
  if (function == nullptr) return "";
  const std::string name = text_of(*function, "name");
  return (name.empty() ? "" : name + " ") + text_of(*function, "arguments");
}

}  // namespace

ChatStream::ChatStream(OnDelta on_delta) : on_delta_(std::move(on_delta)) {}

void ChatStream::push(std::string_view bytes) {
  pending_.append(bytes);
  size_t line_begin = 0;
  for (size_t line_end = pending_.find('\n'); line_end != std::string::npos;
       line_end = pending_.find('\n', line_begin)) {
    std::string_view line(pending_.data() + line_begin, line_end - line_begin);
    if (!line.empty() && line.back() == '\r') line.remove_suffix(1);
    take_line(line);
    line_begin = line_end + 1;
  }
  pending_.erase(0, line_begin);
}

// Only data lines matter here: an event of this API is one line; comments keep the line alive.
void ChatStream::take_line(std::string_view line) {
  constexpr std::string_view kField = "data:";
  if (line.substr(0, kField.size()) != kField) return;
  line.remove_prefix(kField.size());
  if (!line.empty() && line.front() == ' ') line.remove_prefix(1);
  if (line == "[DONE]") {
    answer_.done = true;
    return;
  }
  take_event(line);
}

void ChatStream::take_event(std::string_view json_text) {
  boost::json::error_code ec;
  const boost::json::value json = boost::json::parse(json_text, ec);
  const auto* event = json.if_object();
  if (ec || event == nullptr) {
    answer_.error = "the server sent something that is no JSON";
    return;
  }
  if (event->contains("error")) {
    answer_.error = error_message(json_text);
    return;
  }
  if (const auto* usage = object_of(*event, "usage")) {
    answer_.prompt_tokens = number_of(*usage, "prompt_tokens", -1);
    answer_.completion_tokens = number_of(*usage, "completion_tokens", -1);
    if (const auto* details = object_of(*usage, "completion_tokens_details"))
      answer_.reasoning_tokens = number_of(*details, "reasoning_tokens", -1);
  }
  const auto* choice = first_object(*event, "choices");
  if (choice == nullptr) return;
  const std::string finish_reason = text_of(*choice, "finish_reason");
  if (!finish_reason.empty()) answer_.finish_reason = finish_reason;
  const auto* delta = object_of(*choice, "delta");
  if (delta == nullptr) return;
  ChatDelta shown{.reasoning = text_of(*delta, "reasoning_content"),
                  .content = text_of(*delta, "content"),
                  .tool_call = tool_call_text(*delta)};
  if (shown.reasoning.empty()) shown.reasoning = text_of(*delta, "reasoning");
  answer_.reasoning += shown.reasoning;
  answer_.content += shown.content;
  if (!shown.reasoning.empty() || !shown.content.empty() || !shown.tool_call.empty())
    on_delta_(shown);
}

std::string error_message(std::string_view body) {
  boost::json::error_code ec;
  const boost::json::value json = boost::json::parse(body, ec);
  if (!ec && json.is_object()) {
    const auto* error = object_of(json.as_object(), "error");
    const std::string message = text_of(error == nullptr ? json.as_object() : *error, "message");
    if (!message.empty()) return message;
    const std::string plain = text_of(json.as_object(), "error");
    if (!plain.empty()) return plain;
  }
  constexpr size_t kShown = 200;
  return std::string(body.substr(0, kShown)) + (body.size() > kShown ? "..." : "");
}

}  // namespace tandem::cli
