#include "server/chat/json_text.h"

#include <array>
#include <boost/json/value.hpp>
#include <charconv>
#include <cmath>
#include <cstdlib>

namespace tandem::server {
namespace {

namespace json = boost::json;

// repr(float): the shortest digits, fixed for 1e-4 <= |x| < 1e16 and always with a point or an
// exponent.
void append_double(std::string& out, double value) {
  if (!std::isfinite(value)) {
    out += std::isnan(value) ? "NaN" : (value > 0 ? "Infinity" : "-Infinity");
    return;
  }
  const double magnitude = std::abs(value);
  const bool fixed = value == 0.0 || (magnitude >= 1e-4 && magnitude < 1e16);
  std::array<char, 40> text;
  const auto format = fixed ? std::chars_format::fixed : std::chars_format::scientific;
  const auto result = std::to_chars(text.data(), text.data() + text.size(), value, format);
  const std::string_view digits(text.data(), static_cast<size_t>(result.ptr - text.data()));
  out += digits;
  if (fixed && digits.find('.') == std::string_view::npos) out += ".0";
}

template <typename Integer>
void append_integer(std::string& out, Integer value) {
  std::array<char, 24> text;
  const auto result = std::to_chars(text.data(), text.data() + text.size(), value);
  out.append(text.data(), result.ptr);
}

void append_object(std::string& out, const json::object& object, JsonTextStyle style) {
  out.push_back('{');
  bool first = true;
  for (const auto& [name, member] : object) {
    if (!first) out += style.item_separator;
    first = false;
    append_json_string(out, std::string_view(name.data(), name.size()), style.escapes);
    out += style.key_separator;
    append_json_text(out, member, style);
  }
  out.push_back('}');
}

}  // namespace

void append_json_text(std::string& out, const json::value& value, JsonTextStyle style) {
  switch (value.kind()) {
    case json::kind::null:
      out += "null";
      break;
    case json::kind::bool_:
      out += value.get_bool() ? "true" : "false";
      break;
    case json::kind::int64:
      append_integer(out, value.get_int64());
      break;
    case json::kind::uint64:
      append_integer(out, value.get_uint64());
      break;
    case json::kind::double_:
      append_double(out, value.get_double());
      break;
    case json::kind::string: {
      const json::string& text = value.get_string();
      append_json_string(out, std::string_view(text.data(), text.size()), style.escapes);
      break;
    }
    case json::kind::array: {
      out.push_back('[');
      bool first = true;
      for (const json::value& item : value.get_array()) {
        if (!first) out += style.item_separator;
        first = false;
        append_json_text(out, item, style);
      }
      out.push_back(']');
      break;
    }
    case json::kind::object:
      append_object(out, value.get_object(), style);
      break;
  }
}

std::string json_text(const json::value& value, JsonTextStyle style) {
  std::string out;
  append_json_text(out, value, style);
  return out;
}

std::string json_excerpt(const json::value& value) {
  constexpr size_t kMaxExcerptBytes = 80;
  if (value.is_array()) return "a list of " + std::to_string(value.get_array().size());
  if (value.is_object()) return "an object";
  std::string text;
  if (value.is_string() && value.get_string().size() > kMaxExcerptBytes) {
    const json::string& whole = value.get_string();
    append_json_string(text, std::string_view(whole.data(), kMaxExcerptBytes),
                       JsonEscapes::kMinimal);
    return text + "...";
  }
  append_json_text(text, value);
  return text;
}

}  // namespace tandem::server
