#include "server/openai/choice_fields.h"

#include "server/http/json_writer.h"

namespace tandem::server {

std::string_view finish_reason(ChatChoice::End end) {
  switch (end) {
    case ChatChoice::End::kLength:
      return "length";
    case ChatChoice::End::kToolCalls:
      return "tool_calls";
    case ChatChoice::End::kRepetition:
      return "repetition";
    case ChatChoice::End::kAborted:
      return "abort";
    default:
      return "stop";
  }
}

void append_stop_reason(std::string& out, const ChatChoice& choice) {
  out += ",\"stop_reason\":";
  if (choice.matched_stop()) {
    append_json_string(out, *choice.matched_stop());
  } else if (choice.reported_stop_id() >= 0) {
    out += std::to_string(choice.reported_stop_id());
  } else {
    out += "null";
  }
}

void append_ids(std::string& out, std::string_view name, std::span<const int32_t> ids) {
  out += ',';
  JsonWriter(out).key(name).integers(ids);
}

}  // namespace tandem::server
