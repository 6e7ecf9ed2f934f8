// Typed reading of one JSON object: a missing key or null keeps the default, a wrong type or range
// is an ApiError that names field, value and expectation. The first error is kept.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "server/chat/api_error.h"
#include "server/chat/key_audit.h"

namespace tandem::server {

// A body as a JSON object, at most 128 levels deep; 400 otherwise, and 413 when it would take far
// more memory than text of its size. Halves of characters (in UTF-8 or as escapes) are read as
// U+FFFD.
Result<boost::json::value, ApiError> parse_json_object(std::string_view body);

struct NumberRange {
  double min = 0;
  double max = 0;
  bool min_excluded = false;
};

class FieldReader {
 public:
  // `prefix` is put before the names in messages: "messages[2]." for example.
  explicit FieldReader(const boost::json::object& object, std::string prefix = "");
  // Keys that were not looked at by now are unknown ones: a KeyAudit is told.
  ~FieldReader();
  FieldReader(const FieldReader&) = delete;
  FieldReader& operator=(const FieldReader&) = delete;

  // Keys that clients send with good reason and that mean nothing to this server.
  void ignore(std::initializer_list<std::string_view> keys);
  // The keys are the client's own: none of them is unknown.
  void allow_any_key() { audit_ = nullptr; }

  // nullptr when the key is missing or null.
  [[nodiscard]] const boost::json::value* find(std::string_view key) const;

  // Whole numbers may come as 3.0.
  std::optional<int64_t> integer(std::string_view key, int64_t min, int64_t max);
  std::optional<double> number(std::string_view key, const NumberRange& range);
  std::optional<bool> boolean(std::string_view key);
  std::optional<std::string_view> string(std::string_view key);
  const boost::json::array* array(std::string_view key);
  const boost::json::object* object(std::string_view key);

  void read(std::string_view key, int64_t min, int64_t max, int32_t& out);
  void read(std::string_view key, const NumberRange& range, float& out);
  void read(std::string_view key, bool& out);

  void fail(ApiError error);
  void fail_value(std::string_view key, std::string_view expected, const boost::json::value& got);

  [[nodiscard]] bool ok() const { return !error_.has_value(); }
  [[nodiscard]] const std::optional<ApiError>& error() const { return error_; }
  [[nodiscard]] std::string path(std::string_view key) const { return prefix_ + std::string(key); }

 private:
  // For the OpenAPI document.
  void note(std::string_view key,
            std::string_view type,
            std::optional<double> min = std::nullopt,
            std::optional<double> max = std::nullopt) const;

  void mark_known(std::string_view key) const;

  const boost::json::object& object_;
  std::string prefix_;
  std::optional<ApiError> error_;
  KeyAudit* audit_;                     // nullptr: nobody wants to know
  mutable std::vector<bool> is_known_;  // with an audit: of each entry of the object
};

// The value as a whole number in [min, max], if it is one.
std::optional<int64_t> as_integer(const boost::json::value& value, int64_t min, int64_t max);

inline std::string_view as_view(const boost::json::string& text) {
  return {text.data(), text.size()};
}

}  // namespace tandem::server
