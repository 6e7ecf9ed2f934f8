#include "server/sleep_request.h"

#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <charconv>
#include <optional>
#include <string>
#include <utility>

#include "server/chat/json_fields.h"
#include "server/http/message.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

// A whole number as one, so that the reader of bodies can judge it.
json::value query_value(const std::string& text) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error == std::errc() && end == text.data() + text.size()) return number;
  return json::value(text);
}

// Keys that may come more than once become lists.
void add_query(std::string_view query, json::object& out) {
  json::array tags;
  while (!query.empty()) {
    const std::string_view pair = query.substr(0, query.find('&'));
    query.remove_prefix(std::min(pair.size() + 1, query.size()));
    const size_t equals = pair.find('=');
    const std::string key = percent_decode(pair.substr(0, equals));
    const std::string value =
        equals == std::string_view::npos ? "" : percent_decode(pair.substr(equals + 1));
    if (key == "tags") {
      tags.emplace_back(value);
    } else if (key == "level" || key == "mode") {
      out[key] = query_value(value);
    }
  }
  if (!tags.empty()) out["tags"] = std::move(tags);
}

Result<json::value, ApiError> merged(std::string_view query, std::string_view body) {
  auto document = parse_json_object(body.empty() ? "{}" : body);
  if (document) add_query(query, document->get_object());
  return document;
}

// Absent without tags. Recorded steps ("cuda_graph", SGLang's) go and come with all else.
std::optional<ModelMemory> read_tags(FieldReader& fields) {
  const json::array* tags = fields.array("tags");
  if (tags == nullptr || tags->empty()) return std::nullopt;
  ModelMemory memory;
  for (const json::value& tag : *tags) {
    const std::string_view name = tag.is_string() ? as_view(tag.get_string()) : "";
    if (name == "weights") {
      memory.weights = true;
    } else if (name == "kv_cache") {
      memory.kv_cache = true;
    } else if (name != "cuda_graph") {
      fields.fail_value("tags", "a list of weights, kv_cache", tag);
    }
  }
  return memory;
}

std::optional<SleepMode> mode_of(std::string_view name) {
  if (name == "abort") return SleepMode::kAbort;
  if (name == "wait") return SleepMode::kWait;
  if (name == "keep") return SleepMode::kKeep;
  return std::nullopt;
}

}  // namespace

Result<SleepRequest, ApiError> read_sleep_request(std::string_view query, std::string_view body) {
  const auto document = merged(query, body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  SleepRequest request;
  const int64_t level = fields.integer("level", 1, 2).value_or(1);
  request.memory = level == 1 ? kDeviceModelMemory : kAllModelMemory;
  if (const auto tags = read_tags(fields)) request.memory = *tags;
  if (const auto name = fields.string("mode")) {
    const std::optional<SleepMode> mode = mode_of(*name);
    if (!mode) fields.fail(invalid_value("mode", "abort, wait or keep", *name));
    request.mode = mode.value_or(request.mode);
  }
  if (!fields.ok()) return *fields.error();
  return request;
}

Result<ModelMemory, ApiError> read_wake_request(std::string_view query, std::string_view body) {
  const auto document = merged(query, body);
  if (!document) return document.error();
  FieldReader fields(document->get_object());
  const ModelMemory memory = read_tags(fields).value_or(kAllModelMemory);
  if (!fields.ok()) return *fields.error();
  return memory;
}

}  // namespace tandem::server
