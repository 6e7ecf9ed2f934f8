#include "runtime/tokenizer/call_header.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>

#include "runtime/tokenizer/nested_json.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr std::string_view kPrefix = "functions.";

std::optional<json::object> parse_object(std::string_view text) {
  auto value = parse_nested_json(text, kMaxRequestDepth);
  if (!value || !value->is_object()) return std::nullopt;
  return std::move(value->get_object());
}

bool is_declared(std::string_view name, std::span<const ToolDeclaration> tools) {
  return std::any_of(tools.begin(), tools.end(),
                     [&](const ToolDeclaration& tool) { return tool.name == name; });
}

bool is_type(const json::value& value, std::string_view type) {
  if (type == "string") return value.is_string();
  if (type == "boolean") return value.is_bool();
  if (type == "null") return value.is_null();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  if (type == "number") return value.is_number();
  if (type == "integer") {
    if (!value.is_double()) return value.is_number();
    return std::trunc(value.get_double()) == value.get_double();
  }
  return true;  // not a type of JSON Schema: says nothing
}

// Type, const and enum of one property; deeper keywords are the grammar's business.
bool fits_schema(const json::value& value, const json::value& schema) {
  const json::object* object = schema.if_object();
  if (object == nullptr) return true;
  if (const json::value* expected = object->if_contains("const"); expected && *expected != value) {
    return false;
  }
  if (const json::value* allowed = object->if_contains("enum"); allowed && allowed->is_array()) {
    const json::array& values = allowed->get_array();
    if (std::find(values.begin(), values.end(), value) == values.end()) return false;
  }
  const json::value* type = object->if_contains("type");
  if (type == nullptr) return true;
  if (type->is_string()) return is_type(value, std::string_view(type->get_string()));
  if (!type->is_array()) return true;
  const json::array& types = type->get_array();
  return std::any_of(types.begin(), types.end(), [&](const json::value& entry) {
    return entry.is_string() && is_type(value, std::string_view(entry.get_string()));
  });
}

bool fits_tool(const json::object& arguments, const ToolDeclaration& tool) {
  const std::optional<json::object> schema =
      parse_object(tool.parameters_json.empty() ? "{}" : tool.parameters_json);
  if (!schema) return false;
  if (const json::value* required = schema->if_contains("required");
      required && required->is_array()) {
    for (const json::value& key : required->get_array()) {
      if (key.is_string() && !arguments.contains(key.get_string())) return false;
    }
  }
  const json::value* properties = schema->if_contains("properties");
  const json::object none;
  const json::object& declared =
      properties && properties->is_object() ? properties->get_object() : none;
  return std::all_of(arguments.begin(), arguments.end(), [&](const json::key_value_pair& member) {
    const json::value* property = declared.if_contains(member.key());
    return property != nullptr && fits_schema(member.value(), *property);
  });
}

}  // namespace

std::optional<std::string> name_of_call(std::string_view header,
                                        std::span<const ToolDeclaration> tools) {
  const size_t colon = header.rfind(':');
  const bool has_idx = colon != std::string_view::npos && colon + 1 < header.size() &&
                       header.find_first_not_of("0123456789", colon + 1) == std::string_view::npos;
  const std::string_view full = has_idx ? header.substr(0, colon) : header;
  std::string_view name = full;
  if (name.starts_with(kPrefix)) name.remove_prefix(kPrefix.size());
  if (is_declared(name, tools)) return std::string(name);
  if (is_declared(full, tools)) return std::string(full);
  if (!has_idx) return std::nullopt;
  name = name.substr(name.rfind('.') + 1);  // npos + 1 == 0: the whole name
  if (name.empty()) return std::nullopt;
  return std::string(name);
}

std::optional<std::string> infer_call_name(std::string_view arguments,
                                           std::span<const ToolDeclaration> tools) {
  const std::optional<json::object> parsed = parse_object(arguments);
  if (!parsed) return std::nullopt;
  std::optional<std::string> name;
  for (const ToolDeclaration& tool : tools) {
    if (!fits_tool(*parsed, tool)) continue;
    if (name.has_value()) return std::nullopt;
    name = tool.name;
  }
  return name;
}

}  // namespace tandem
