#include "server/chat/json_fields.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/memory_resource.hpp>
#include <boost/json/parser.hpp>
#include <cmath>
#include <new>
#include <utility>

#include "runtime/tokenizer/nested_json.h"
#include "server/chat/field_recorder.h"
#include "server/chat/json_repair.h"
#include "server/chat/json_text.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

// What a parsed body may take: text needs 3 bytes a byte, while its string grows; token ids need
// more, and have a million's room. Short arrays without end would take 30.
constexpr size_t kMinJsonMemoryBytes = size_t{128} << 20;
constexpr size_t kJsonMemoryPerByte = 4;

class BoundedMemory : public json::memory_resource {
 public:
  explicit BoundedMemory(size_t size_bytes) : left_bytes_(size_bytes) {}

 private:
  // Nothing in JSON is aligned above what new gives; Boost.JSON takes keys and gives them back with
  // different alignments.
  void* do_allocate(size_t size_bytes, size_t /*alignment*/) override {
    if (size_bytes > left_bytes_) throw std::bad_alloc();
    void* memory = ::operator new(size_bytes);
    left_bytes_ -= size_bytes;
    return memory;
  }
  void do_deallocate(void* memory, size_t size_bytes, size_t /*alignment*/) override {
    ::operator delete(memory);
    left_bytes_ += size_bytes;
  }
  [[nodiscard]] bool do_is_equal(const json::memory_resource& other) const noexcept override {
    return this == &other;
  }

  size_t left_bytes_;
};

json::value parse_json(std::string_view text,
                       size_t max_memory_bytes,
                       boost::system::error_code& code) {
  json::parse_options options;
  options.max_depth = kMaxRequestDepth;
  const json::storage_ptr memory = json::make_shared_resource<BoundedMemory>(max_memory_bytes);
  std::array<unsigned char, 4096> buffer;  // enough for most bodies' unfinished values
  json::parser parser(memory, options, buffer.data(), buffer.size());
  parser.reset(memory);
  parser.write(text.data(), text.size(), code);
  return code ? json::value() : parser.release();
}

std::string describe(const NumberRange& range) {
  return fmt::format("a number {} {}{} {}", range.min_excluded ? "above" : "from", range.min,
                     range.min_excluded ? " and up to" : " to", range.max);
}

}  // namespace

Result<json::value, ApiError> parse_json_object(std::string_view body) {
  boost::system::error_code code;
  std::optional<json::value> value;  // assigning a value would copy it out of its memory
  const size_t max_memory_bytes = std::max(kMinJsonMemoryBytes, kJsonMemoryPerByte * body.size());
  try {
    value.emplace(parse_json(body, max_memory_bytes, code));
    if (const auto repaired = code ? repair_json_text(body) : std::nullopt) {
      value.emplace(parse_json(*repaired, max_memory_bytes, code));
    }
  } catch (const std::bad_alloc&) {
    ApiError error = invalid_value(
        "body", fmt::format("JSON that takes at most {} MiB once parsed", max_memory_bytes >> 20),
        "more");
    error.status = 413;
    error.code = "request_too_large";
    error.param.clear();
    return error;
  } catch (const std::exception& failure) {  // a string beyond the library's limit
    ApiError error = invalid_value("body", "a JSON object", failure.what());
    error.code = "invalid_json";
    return error;
  }
  if (code) {
    ApiError error = invalid_value("body", "a JSON object in UTF-8",
                                   body.empty() ? "no body" : "a JSON error: " + code.message());
    error.code = "invalid_json";
    error.param.clear();
    return error;
  }
  if (!value->is_object()) return invalid_value("body", "a JSON object", json_excerpt(*value));
  return std::move(*value);
}

FieldReader::FieldReader(const json::object& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)), audit_(KeyAudit::current()) {
  if (audit_ != nullptr) is_known_.resize(object.size());
}

FieldReader::~FieldReader() {
  if (audit_ == nullptr) return;
  size_t entry_idx = 0;
  for (const auto& entry : object_) {
    if (is_known_[entry_idx++]) continue;
    try {
      audit_->add_unknown(path({entry.key().data(), entry.key().size()}));
    } catch (const std::bad_alloc&) {  // one that is not told of
    }
  }
}

void FieldReader::ignore(std::initializer_list<std::string_view> keys) {
  FieldRecorder* recorder = FieldRecorder::current();
  for (const std::string_view key : keys) {
    if (recorder != nullptr && prefix_.empty())
      recorder->note({.name = std::string(key), .type = "", .is_ignored = true});
    mark_known(key);
  }
}

void FieldReader::mark_known(std::string_view key) const {
  if (audit_ == nullptr) return;
  const auto entry = object_.find(json::string_view(key.data(), key.size()));
  if (entry != object_.end()) is_known_[static_cast<size_t>(entry - object_.begin())] = true;
}

void FieldReader::note(std::string_view key,
                       std::string_view type,
                       std::optional<double> min,
                       std::optional<double> max) const {
  FieldRecorder* recorder = FieldRecorder::current();
  if (recorder != nullptr && prefix_.empty())
    recorder->note({.name = std::string(key), .type = type, .min = min, .max = max});
}

const json::value* FieldReader::find(std::string_view key) const {
  note(key, "");
  mark_known(key);
  const json::value* value = object_.if_contains(json::string_view(key.data(), key.size()));
  return value == nullptr || value->is_null() ? nullptr : value;
}

std::optional<int64_t> FieldReader::integer(std::string_view key, int64_t min, int64_t max) {
  note(key, "integer", static_cast<double>(min), static_cast<double>(max));
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  const std::optional<int64_t> number = as_integer(*value, min, max);
  if (!number) fail_value(key, fmt::format("a whole number from {} to {}", min, max), *value);
  return number;
}

std::optional<double> FieldReader::number(std::string_view key, const NumberRange& range) {
  note(key, "number", range.min, range.max);
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  double number = std::nan("");
  if (value->is_number()) number = value->to_number<double>();
  const bool above = range.min_excluded ? number > range.min : number >= range.min;
  if (above && number <= range.max) return number;  // false for NaN
  fail_value(key, describe(range), *value);
  return std::nullopt;
}

std::optional<bool> FieldReader::boolean(std::string_view key) {
  note(key, "boolean");
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_bool()) return value->get_bool();
  fail_value(key, "true or false", *value);
  return std::nullopt;
}

std::optional<std::string_view> FieldReader::string(std::string_view key) {
  note(key, "string");
  const json::value* value = find(key);
  if (value == nullptr) return std::nullopt;
  if (value->is_string()) return as_view(value->get_string());
  fail_value(key, "a string", *value);
  return std::nullopt;
}

const json::array* FieldReader::array(std::string_view key) {
  note(key, "array");
  const json::value* value = find(key);
  if (value == nullptr) return nullptr;
  if (value->is_array()) return &value->get_array();
  fail_value(key, "a list", *value);
  return nullptr;
}

const json::object* FieldReader::object(std::string_view key) {
  note(key, "object");
  const json::value* value = find(key);
  if (value == nullptr) return nullptr;
  if (value->is_object()) return &value->get_object();
  fail_value(key, "an object", *value);
  return nullptr;
}

void FieldReader::read(std::string_view key, int64_t min, int64_t max, int32_t& out) {
  if (const auto value = integer(key, min, max)) out = static_cast<int32_t>(*value);
}

void FieldReader::read(std::string_view key, const NumberRange& range, float& out) {
  if (const auto value = number(key, range)) out = static_cast<float>(*value);
}

void FieldReader::read(std::string_view key, bool& out) {
  if (const auto value = boolean(key)) out = *value;
}

void FieldReader::fail(ApiError error) {
  if (!error_) error_ = std::move(error);
}

void FieldReader::fail_value(std::string_view key,
                             std::string_view expected,
                             const json::value& got) {
  if (!error_) error_ = invalid_value(path(key), expected, json_excerpt(got));
}

std::optional<int64_t> as_integer(const json::value& value, int64_t min, int64_t max) {
  int64_t number = 0;
  if (value.is_int64()) {
    number = value.get_int64();
  } else if (value.is_double()) {
    const double real = value.get_double();
    // 2^53: beyond it a double does not name one integer.
    if (!(std::abs(real) <= 9007199254740992.0) || real != std::floor(real)) return std::nullopt;
    number = static_cast<int64_t>(real);
  } else {
    return std::nullopt;  // uint64 holds only what exceeds int64
  }
  if (number < min || number > max) return std::nullopt;
  return number;
}

}  // namespace tandem::server
