// Functions declared in another form than OpenAI's, in the form that the model was trained on:
// [{"type": "function", "function": {"name", "description", "parameters"}}].
#pragma once

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <optional>
#include <string_view>
#include <vector>

#include "server/chat/chat_request.h"

namespace tandem::server {

class FunctionTools {
 public:
  void add(std::string_view name,
           std::optional<std::string_view> description,
           const boost::json::object* parameters,  // nullptr: none
           bool is_strict);
  // Declares them in `request`; calls are then allowed.
  void declare(ChatRequest& request) &&;

 private:
  std::vector<ToolDeclaration> declarations_;
  boost::json::array tools_;
};

// The id functions.NAME:IDX is read back by id parsers and sits in the prompt: no separators in a
// name.
bool is_function_name(std::string_view name);
inline constexpr std::string_view kFunctionNameRule =
    "a name of 1 to 256 bytes without white space, quotes or any of :<>|";

}  // namespace tandem::server
