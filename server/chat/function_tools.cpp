#include "server/chat/function_tools.h"

#include <algorithm>
#include <boost/json/value.hpp>

#include "server/chat/json_text.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

json::string_view to_json(std::string_view text) { return {text.data(), text.size()}; }

}  // namespace

void FunctionTools::add(std::string_view name,
                        std::optional<std::string_view> description,
                        const json::object* parameters,
                        bool is_strict) {
  ToolDeclaration declaration;
  declaration.is_strict = is_strict;
  declaration.name = name;
  json::object function;
  function["name"] = to_json(name);
  if (description) function["description"] = to_json(*description);
  if (parameters != nullptr) {
    function["parameters"] = *parameters;
    declaration.parameters_json = json_text(function["parameters"]);
  }
  declarations_.push_back(std::move(declaration));
  tools_.push_back(json::object{{"type", "function"}, {"function", std::move(function)}});
}

void FunctionTools::declare(ChatRequest& request) && {
  request.tool_calls_allowed = !declarations_.empty();
  request.tools = std::move(declarations_);
  if (!tools_.empty()) {
    request.prompt.tools_json = canonical_tools_json(json_text(tools_, kCompactJson));
  }
}

bool is_function_name(std::string_view name) {
  constexpr size_t kMaxNameBytes = 256;
  return !name.empty() && name.size() <= kMaxNameBytes &&
         std::all_of(name.begin(), name.end(), [](char c) {
           const auto byte = static_cast<unsigned char>(c);
           return byte > 0x20 && byte != 0x7f && c != ':' && c != '<' && c != '>' && c != '|' &&
                  c != '"';
         });
}

}  // namespace tandem::server
