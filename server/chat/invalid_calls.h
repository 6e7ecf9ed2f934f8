// Calls that do not satisfy their function's schema in what no grammar could hold them to. They are
// passed on: agents answer the model with what is wrong, and a stream cannot be taken back.
#pragma once

#include <span>
#include <string>

namespace tandem::server {

struct InvalidCall {
  std::string id;
  std::string name;
  std::string error;  // "tags: uniqueItems: items 0 and 2 are the same"
};

// `,"invalid_tool_calls":[{"id","name","error"}]`; nothing when there are none.
void append_invalid_calls(std::string& out, std::span<const InvalidCall> calls);

}  // namespace tandem::server
