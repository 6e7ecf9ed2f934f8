// Tools of a Responses request. The model knows functions only, so a custom tool is declared as a
// function of one string, a function of a namespace as NAMESPACE__NAME; calls go back the other way
// (serving/clients.md, Codex). Tools that cannot be offered (web_search, tool_search, ...) are left
// out.
#pragma once

#include <boost/json/array.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/chat_request.h"

namespace tandem::server {

struct ResponseTool {
  enum class Kind { kFunction, kCustom };
  Kind kind = Kind::kFunction;
  std::string name;
  std::string name_space;  // "" without
};

class ResponseTools {
 public:
  // Declares what can be offered in `request`.
  static Result<ResponseTools, ApiError> parse(const boost::json::array& tools,
                                               ChatRequest& request);

  // What the model calls `name`; a plain function when nothing of that name was declared.
  [[nodiscard]] ResponseTool find(const std::string& name) const;

  // The model's name for a call in the history, whether or not the tool is still declared.
  static std::string model_name(std::string_view name, std::string_view name_space);
  // Text of a custom tool to arguments of the function that stands for it, and back; what the model
  // wrote against the schema comes back as it is.
  static std::string custom_arguments(std::string_view input);
  static std::string custom_input(std::string_view arguments);
  // Of arguments that end too early: as much of the text as they hold.
  static std::string cut_custom_input(std::string_view arguments);

 private:
  std::unordered_map<std::string, ResponseTool> tools_;  // by the model's name
};

}  // namespace tandem::server
