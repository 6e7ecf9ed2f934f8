#include "runtime/model/json_fields.h"

#include <fmt/format.h>

#include <boost/json.hpp>
#include <cmath>

#include "runtime/base/errors.h"

namespace tandem {

namespace json = boost::json;

namespace {

// JSON numbers that are whole count as integers: some writers print 4096.0.
std::optional<int64_t> as_integer(const json::value& value) {
  if (value.is_int64()) return value.get_int64();
  if (value.is_double()) {
    const double number = value.get_double();
    if (std::abs(number) < 9.0e15 && number == std::floor(number)) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

std::optional<double> as_number(const json::value& value) {
  if (value.is_double()) return value.get_double();
  if (value.is_int64()) return static_cast<double>(value.get_int64());
  if (value.is_uint64()) return static_cast<double>(value.get_uint64());
  return std::nullopt;
}

bool is_in(int64_t value, IntRange range) { return value >= range.min && value <= range.max; }

std::string range_text(IntRange range) {
  return fmt::format("an integer from {} to {}", range.min, range.max);
}

}  // namespace

const json::value* JsonFields::find(std::string_view key) const {
  for (const json::object* object : {object_, outer_}) {
    if (object == nullptr) continue;
    const json::value* const value = object->if_contains(key);
    if (value != nullptr && !value->is_null()) return value;
  }
  return nullptr;
}

const json::object* JsonFields::find_object(std::string_view key) const {
  const json::value* const value = find(key);
  if (value == nullptr) return nullptr;
  if (!value->is_object()) fail(key, "an object");
  return &value->get_object();
}

void JsonFields::fail(std::string_view key, std::string_view expected) const {
  const json::value* const value = find(key);
  constexpr size_t kMaxShown = 200;
  std::string shown = value == nullptr ? "missing" : json::serialize(*value);
  if (shown.size() > kMaxShown) shown = shown.substr(0, kMaxShown) + "...";
  throw ConfigError(
      fmt::format("config.json: {}{} is {}, expected {}", path_, key, shown, expected));
}

int32_t JsonFields::integer(std::string_view key, IntRange range) const {
  const json::value* const value = find(key);
  const std::optional<int64_t> number = value ? as_integer(*value) : std::nullopt;
  if (!number || !is_in(*number, range)) fail(key, range_text(range));
  return static_cast<int32_t>(*number);
}

int32_t JsonFields::integer_or(std::string_view key, int32_t absent, IntRange range) const {
  return find(key) == nullptr ? absent : integer(key, range);
}

float JsonFields::number(std::string_view key, NumberRange range) const {
  const json::value* const value = find(key);
  const std::optional<double> number = value ? as_number(*value) : std::nullopt;
  if (!number || !(*number >= range.min && *number <= range.max)) {
    fail(key, fmt::format("a number from {:g} to {:g}", range.min, range.max));
  }
  return static_cast<float>(*number);
}

float JsonFields::number_or(std::string_view key, float absent, NumberRange range) const {
  return find(key) == nullptr ? absent : number(key, range);
}

bool JsonFields::boolean_or(std::string_view key, bool absent) const {
  const json::value* const value = find(key);
  if (value == nullptr) return absent;
  if (!value->is_bool()) fail(key, "true or false");
  return value->get_bool();
}

std::string JsonFields::string_or(std::string_view key, std::string_view absent) const {
  const json::value* const value = find(key);
  if (value == nullptr) return std::string(absent);
  if (!value->is_string()) fail(key, "a string");
  return std::string(value->get_string());
}

std::vector<int32_t> JsonFields::integer_list(std::string_view key, IntRange range) const {
  const json::value* const value = find(key);
  if (value == nullptr) return {};
  if (!value->is_array()) return {integer(key, range)};
  std::vector<int32_t> result;
  for (const json::value& item : value->get_array()) {
    const std::optional<int64_t> number = as_integer(item);
    if (!number || !is_in(*number, range)) fail(key, range_text(range) + " or a list of them");
    result.push_back(static_cast<int32_t>(*number));
  }
  return result;
}

void JsonFields::expect(std::string_view key, std::string_view wanted) const {
  const json::value* const value = find(key);
  if (value == nullptr) return;
  if (!value->is_string() || std::string_view(value->get_string()) != wanted) {
    fail(key, fmt::format("\"{}\"", wanted));
  }
}

void JsonFields::expect(std::string_view key, int64_t wanted) const {
  const json::value* const value = find(key);
  if (value != nullptr && as_integer(*value) != wanted) fail(key, std::to_string(wanted));
}

void JsonFields::expect_boolean(std::string_view key, bool wanted) const {
  if (boolean_or(key, wanted) != wanted) fail(key, wanted ? "true" : "false");
}

}  // namespace tandem
