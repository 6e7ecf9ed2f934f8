#include "server/chat/invalid_calls.h"

#include "server/http/json_writer.h"

namespace tandem::server {

void append_invalid_calls(std::string& out, std::span<const InvalidCall> calls) {
  if (calls.empty()) return;
  out += ",\"invalid_tool_calls\":";
  JsonWriter json(out);
  json.begin_array();
  for (const InvalidCall& call : calls) {
    json.begin_object().key("id").string(call.id);
    json.key("name").string(call.name).key("error").string(call.error).end_object();
  }
  json.end_array();
}

}  // namespace tandem::server
