#include "server/chat/tool_choice.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr std::string_view kExpected = "'auto', 'none', 'required' or a function";

// "" when there is none.
std::string_view text_of(const json::object& object, std::string_view key) {
  const json::value* text = object.if_contains(json::string_view(key.data(), key.size()));
  return text != nullptr && text->is_string() ? as_view(text->get_string()) : std::string_view();
}

// {"function":{"name":N}}, or {"name":N} as in the Responses API. "" when there is none.
std::string tool_name(const json::object& choice, ModelToolName model_name) {
  const json::value* function = choice.if_contains("function");
  const json::object& holder =
      function != nullptr && function->is_object() ? function->get_object() : choice;
  const std::string_view name = text_of(holder, "name");
  if (model_name == nullptr || name.empty()) return std::string(name);
  return model_name(name, text_of(holder, "namespace"));
}

bool is_declared(const ChatRequest& request, std::string_view name) {
  return std::any_of(request.tools.begin(), request.tools.end(),
                     [&](const ToolDeclaration& tool) { return tool.name == name; });
}

void set_mode(FieldReader& fields,
              ChatRequest& request,
              std::string_view mode,
              const json::value& choice) {
  if (mode == "none") {
    request.tool_calls_allowed = false;
  } else if (mode == "required" || mode == "any") {
    if (request.tools.empty())
      return fields.fail_value("tool_choice", "tools beside 'required'", choice);
    request.call_required = true;
  } else if (mode != "auto") {
    fields.fail_value("tool_choice", kExpected, choice);
  }
}

void add_callable(FieldReader& fields,
                  ChatRequest& request,
                  const json::value& tool,
                  ModelToolName model_name) {
  std::string name = tool.is_object() ? tool_name(tool.get_object(), model_name) : "";
  if (!is_declared(request, name)) {
    return fields.fail_value("tool_choice", "the name of a declared function",
                             name.empty() ? tool : json::value(name));
  }
  request.callable_tools.push_back(std::move(name));
}

// {"mode": "auto" | "required", "tools": [...]}, in the choice itself or in a key of its own.
void read_allowed_tools(FieldReader& fields,
                        ChatRequest& request,
                        const json::value& choice,
                        ModelToolName model_name) {
  const json::object& outer = choice.get_object();
  const json::value* nested = outer.if_contains("allowed_tools");
  const json::object& allowed =
      nested != nullptr && nested->is_object() ? nested->get_object() : outer;
  const json::value* tools = allowed.if_contains("tools");
  // An empty list of callable tools would stand for all of them.
  if (tools == nullptr || !tools->is_array() || tools->get_array().empty()) {
    return fields.fail_value("tool_choice", "allowed_tools with a list of at least one tool",
                             tools == nullptr ? choice : *tools);
  }
  for (const json::value& tool : tools->get_array())
    add_callable(fields, request, tool, model_name);
  const json::value* mode = allowed.if_contains("mode");
  if (mode == nullptr) return;
  set_mode(fields, request, mode->is_string() ? as_view(mode->get_string()) : std::string_view(),
           *mode);
}

}  // namespace

void read_tool_choice(FieldReader& fields, ChatRequest& request, ModelToolName model_name) {
  request.tool_calls_allowed = !request.tools.empty();
  fields.read("parallel_tool_calls", request.parallel_tool_calls);
  const json::value* choice = fields.find("tool_choice");
  if (choice == nullptr) return;
  if (!choice->is_object()) {
    const bool is_text = choice->is_string();
    return set_mode(fields, request, is_text ? as_view(choice->get_string()) : std::string_view(),
                    *choice);
  }
  const json::value* type = choice->get_object().if_contains("type");
  const std::string_view type_name = text_of(choice->get_object(), "type");
  if (type_name == "allowed_tools") return read_allowed_tools(fields, request, *choice, model_name);
  const bool is_custom = type_name == "custom" && model_name != nullptr;
  if (type_name != "function" && !is_custom)
    return fields.fail_value("tool_choice", kExpected, type == nullptr ? *choice : *type);
  add_callable(fields, request, *choice, model_name);
  request.call_required = true;
  request.parallel_tool_calls = false;  // that function, once
}

}  // namespace tandem::server
