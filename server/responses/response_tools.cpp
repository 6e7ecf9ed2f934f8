#include "server/responses/response_tools.h"

#include <fmt/format.h>

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>

#include "server/chat/function_tools.h"
#include "server/chat/json_fields.h"
#include "server/chat/json_text.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

constexpr std::string_view kInput = "input";

constexpr size_t kMaxOpenEscapeBytes = 11;  // of an escaped pair of surrogates without its end

// {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}
json::object custom_parameters() {
  return {{"type", "object"},
          {"properties", {{kInput, {{"type", "string"}}}}},
          {"required", json::array{kInput}}};
}

// The grammar of a custom tool is part of what the model must know to write its input.
std::string custom_description(FieldReader& tool) {
  std::string description(tool.string("description").value_or(""));
  const json::object* format = tool.object("format");
  if (format == nullptr) return description;
  FieldReader entries(*format, tool.path("format") + ".");
  entries.ignore({"type"});
  const auto definition = entries.string("definition");
  if (!definition) return description;
  return fmt::format("{}\n\nThe input follows this {} grammar:\n{}", description,
                     entries.string("syntax").value_or(""), *definition);
}

// Absent where the arguments are no object with a text.
std::optional<std::string> input_of(std::string_view arguments) {
  boost::system::error_code code;
  const json::value value =
      json::parse(json::string_view(arguments.data(), arguments.size()), code);
  if (code || !value.is_object()) return std::nullopt;
  const json::value* input = value.get_object().if_contains(kInput);
  if (input == nullptr || !input->is_string()) return std::nullopt;
  return std::string(as_view(input->get_string()));
}

class ToolReader {
 public:
  explicit ToolReader(std::unordered_map<std::string, ResponseTool>& tools) : tools_(tools) {}

  std::optional<ApiError> read(const json::array& list,
                               const std::string& path,
                               std::string_view name_space) {
    for (size_t tool_idx = 0; tool_idx < list.size(); ++tool_idx) {
      const std::string tool_path = fmt::format("{}[{}]", path, tool_idx);
      if (!list[tool_idx].is_object()) {
        return invalid_value(tool_path, "a tool object", json_excerpt(list[tool_idx]));
      }
      FieldReader tool(list[tool_idx].get_object(), tool_path + ".");
      if (auto error = read_tool(tool, name_space)) return error;
    }
    return std::nullopt;
  }
  FunctionTools& functions() { return functions_; }

 private:
  std::optional<ApiError> read_tool(FieldReader& tool, std::string_view name_space) {
    const auto type = tool.string("type");
    if (!tool.ok()) return tool.error();
    if (!type) return invalid_value(tool.path("type"), "the type of a tool", "nothing");
    tool.ignore({"description", "defer_loading"});
    if (type == "namespace" && name_space.empty()) {
      const auto name = read_name(tool);
      if (!name) return name.error();
      const json::array* members = tool.array("tools");
      if (!tool.ok()) return tool.error();
      return members == nullptr ? std::nullopt : read(*members, tool.path("tools"), *name);
    }
    const bool is_custom = type == "custom";
    if (type != "function" && !is_custom) {
      tool.allow_any_key();
      return std::nullopt;
    }
    const auto name = read_name(tool);
    if (!name) return name.error();
    const std::string model_name = ResponseTools::model_name(*name, name_space);
    if (is_custom) {
      const json::object parameters = custom_parameters();
      functions_.add(model_name, custom_description(tool), &parameters, false);
    } else {
      functions_.add(model_name, tool.string("description"), tool.object("parameters"),
                     tool.boolean("strict").value_or(false));
    }
    if (!tool.ok()) return tool.error();
    tools_[model_name] = {is_custom ? ResponseTool::Kind::kCustom : ResponseTool::Kind::kFunction,
                          std::string(*name), std::string(name_space)};
    return std::nullopt;
  }

  static Result<std::string_view, ApiError> read_name(FieldReader& tool) {
    const auto name = tool.string("name");
    if (!tool.ok()) return *tool.error();
    if (name && is_function_name(*name)) return *name;
    return invalid_value(tool.path("name"), kFunctionNameRule,
                         name ? json_excerpt(*tool.find("name")) : "nothing");
  }

  std::unordered_map<std::string, ResponseTool>& tools_;
  FunctionTools functions_;
};

}  // namespace

Result<ResponseTools, ApiError> ResponseTools::parse(const json::array& list,
                                                     ChatRequest& request) {
  ResponseTools tools;
  ToolReader reader(tools.tools_);
  if (auto error = reader.read(list, "tools", "")) return *error;
  std::move(reader.functions()).declare(request);
  return tools;
}

ResponseTool ResponseTools::find(const std::string& name) const {
  const auto found = tools_.find(name);
  if (found != tools_.end()) return found->second;
  return {ResponseTool::Kind::kFunction, name, ""};
}

std::string ResponseTools::model_name(std::string_view name, std::string_view name_space) {
  if (name_space.empty()) return std::string(name);
  return fmt::format("{}__{}", name_space, name);
}

std::string ResponseTools::custom_arguments(std::string_view input) {
  return json_text(json::object{{kInput, json::string_view(input.data(), input.size())}});
}

std::string ResponseTools::custom_input(std::string_view arguments) {
  return input_of(arguments).value_or(std::string(arguments));
}

std::string ResponseTools::cut_custom_input(std::string_view arguments) {
  for (size_t num_left_out = 0; num_left_out <= kMaxOpenEscapeBytes; ++num_left_out) {
    if (num_left_out > arguments.size()) break;
    std::string closed(arguments.substr(0, arguments.size() - num_left_out));
    closed += "\"}";
    if (auto input = input_of(closed)) return *std::move(input);
  }
  // The text had not begun, or there never was an object around it.
  return arguments.starts_with('{') ? "" : std::string(arguments);
}

}  // namespace tandem::server
