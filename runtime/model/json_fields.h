// Fields of one JSON object, read with errors that name key, value and what was expected.
#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// A closed range of values.
struct IntRange {
  int64_t min = 0;
  int64_t max = 0;
};
struct NumberRange {
  double min = 0.0;
  double max = 0.0;
};

// Every function throws ConfigError. "Absent" is a missing key or null. The object outlives this.
class JsonFields {
 public:
  // `path` goes in front of keys in messages: "rope_scaling." Keys that `object` lacks are looked
  // up in `outer`, when there is one.
  JsonFields(const boost::json::object& object,
             std::string path,
             const boost::json::object* outer = nullptr)
      : object_(&object), path_(std::move(path)), outer_(outer) {}

  [[nodiscard]] const boost::json::value* find(std::string_view key) const;  // nullptr when absent
  [[nodiscard]] const boost::json::object* find_object(std::string_view key) const;

  [[nodiscard]] int32_t integer(std::string_view key, IntRange range) const;
  [[nodiscard]] int32_t integer_or(std::string_view key, int32_t absent, IntRange range) const;
  [[nodiscard]] float number(std::string_view key, NumberRange range) const;
  [[nodiscard]] float number_or(std::string_view key, float absent, NumberRange range) const;
  [[nodiscard]] bool boolean_or(std::string_view key, bool absent) const;
  [[nodiscard]] std::string string_or(std::string_view key, std::string_view absent) const;
  // An integer, a list of integers, or absent (empty).
  [[nodiscard]] std::vector<int32_t> integer_list(std::string_view key, IntRange range) const;

  // Throws unless the value, when present, is this text / integer / boolean.
  void expect(std::string_view key, std::string_view wanted) const;
  void expect(std::string_view key, int64_t wanted) const;
  void expect_boolean(std::string_view key, bool wanted) const;

  [[noreturn]] void fail(std::string_view key, std::string_view expected) const;

 private:
  const boost::json::object* object_;
  std::string path_;
  const boost::json::object* outer_;
};

}  // namespace tandem
