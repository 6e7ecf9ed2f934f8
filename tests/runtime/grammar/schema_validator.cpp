#include "tests/runtime/grammar/schema_validator.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <regex>
#include <set>

namespace tandem::tests {
namespace {

namespace json = boost::json;

std::wstring wide(std::string_view text) {
  std::wstring result;
  for (size_t idx = 0; idx < text.size();) {
    const auto lead = static_cast<unsigned char>(text[idx]);
    const int size = lead < 0x80 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    uint32_t code = size == 1 ? lead : lead & (0x7Fu >> size);
    for (int byte = 1; byte < size; ++byte)
      code = code << 6 | (static_cast<unsigned char>(text[idx + byte]) & 0x3Fu);
    result += static_cast<wchar_t>(code);
    idx += static_cast<size_t>(size);
  }
  return result;
}

bool matches(std::string_view pattern, std::string_view text) {
  return std::regex_search(wide(text), std::wregex(wide(pattern), std::regex::ECMAScript));
}

std::string_view view(const json::string& text) { return {text.data(), text.size()}; }
std::string text_of(json::string_view key) { return {key.data(), key.size()}; }

bool same(const json::value& a, const json::value& b) {
  if (a.is_number() && b.is_number()) return a.to_number<double>() == b.to_number<double>();
  if (a.is_array() && b.is_array()) {
    const auto& x = a.get_array();
    const auto& y = b.get_array();
    if (x.size() != y.size()) return false;
    for (size_t idx = 0; idx < x.size(); ++idx) {
      if (!same(x[idx], y[idx])) return false;
    }
    return true;
  }
  if (a.is_object() && b.is_object()) {
    if (a.get_object().size() != b.get_object().size()) return false;
    for (const auto& [key, value] : a.get_object()) {
      const json::value* other = b.get_object().if_contains(key);
      if (other == nullptr || !same(value, *other)) return false;
    }
    return true;
  }
  return a == b;
}

class Validator {
 public:
  explicit Validator(const json::value& root) : root_(root) {}

  // The first keyword that fails, with the place of the value.
  std::string check(const json::value& value, const json::value& schema, const std::string& at) {
    if (schema.is_bool()) return schema.get_bool() ? "" : at + ": false";
    const json::object& keywords = schema.get_object();
    for (const auto& [key, argument] : keywords) {
      std::string wrong = check_keyword(value, text_of(key), argument, keywords, at);
      if (!wrong.empty()) return wrong;
    }
    return "";
  }

 private:
  bool holds(const json::value& value, const json::value& schema) {
    return check(value, schema, "").empty();
  }

  std::string check_keyword(const json::value& value,
                            const std::string& key,
                            const json::value& argument,
                            const json::object& keywords,
                            const std::string& at) {
    bool good = true;
    if (key == "type") {
      good = has_type(value, argument);
    } else if (key == "const") {
      good = same(value, argument);
    } else if (key == "enum") {
      good = false;
      for (const json::value& item : argument.get_array()) good = good || same(value, item);
    } else if (key == "$ref") {
      return check(value, resolve(view(argument.get_string())), at);
    } else if (key == "allOf") {
      for (const json::value& part : argument.get_array()) good = good && holds(value, part);
    } else if (key == "anyOf" || key == "oneOf") {
      int num = 0;
      for (const json::value& part : argument.get_array()) num += holds(value, part);
      good = key == "anyOf" ? num > 0 : num == 1;
    } else if (key == "not") {
      good = !holds(value, argument);
    } else if (value.is_number()) {
      good = check_number(value.to_number<double>(), key, argument);
    } else if (value.is_string()) {
      good = check_string(view(value.get_string()), key, argument);
    } else if (value.is_array()) {
      return check_array(value.get_array(), key, argument, keywords, at);
    } else if (value.is_object()) {
      return check_object(value.get_object(), key, argument, keywords, at);
    }
    return good ? ""
                : at + ": " + key + " " + json::serialize(argument) + ", got " +
                      json::serialize(value);
  }

  static bool has_type(const json::value& value, const json::value& argument) {
    if (argument.is_array()) {
      for (const json::value& item : argument.get_array()) {
        if (has_type(value, item)) return true;
      }
      return false;
    }
    const json::string& type = argument.get_string();
    if (type == "null") return value.is_null();
    if (type == "boolean") return value.is_bool();
    if (type == "string") return value.is_string();
    if (type == "array") return value.is_array();
    if (type == "object") return value.is_object();
    if (type == "number") return value.is_number();
    return value.is_number() && std::trunc(value.to_number<double>()) == value.to_number<double>();
  }

  static bool check_number(double value, const std::string& key, const json::value& argument) {
    if (!argument.is_number()) return true;
    const double limit = argument.to_number<double>();
    if (key == "minimum") return value >= limit;
    if (key == "maximum") return value <= limit;
    if (key == "exclusiveMinimum") return value > limit;
    if (key == "exclusiveMaximum") return value < limit;
    if (key == "multipleOf") {
      const double quotient = value / limit;
      return std::abs(quotient - std::round(quotient)) <= 1e-9 * std::max(1.0, std::abs(quotient));
    }
    return true;
  }

  static bool check_string(std::string_view value,
                           const std::string& key,
                           const json::value& argument) {
    if (key == "minLength") return wide(value).size() >= argument.to_number<size_t>();
    if (key == "maxLength") return wide(value).size() <= argument.to_number<size_t>();
    if (key == "pattern") return matches(view(argument.get_string()), value);
    if (key != "format") return true;
    const json::string& format = argument.get_string();
    if (format == "date") return matches("^\\d{4}-\\d\\d-\\d\\d$", value);
    if (format == "uuid") return matches("^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$", value);
    if (format == "email") return matches("^[^@ ]+@[^@ ]+\\.[a-zA-Z]+$", value);
    if (format == "ipv4") return matches("^\\d{1,3}(\\.\\d{1,3}){3}$", value);
    if (format == "uri") {  // RFC 3986, of those with an authority
      return matches(
                 "^[a-zA-Z][a-zA-Z0-9+.-]*://(?:[^@/?#\\[\\]]*@)?[^@:/?#\\[\\]]+(?::\\d*)?(?:/"
                 "[^?#\\[\\]]*)?"
                 "(?:\\?[^#\\[\\]]*)?(?:#[^#\\[\\]]*)?$",
                 value) &&
             !matches("[^\\x21-\\x7e]|[\"<>\\\\^`{|}]|%(?![0-9a-fA-F]{2})", value);
    }
    if (format == "date-time") return matches("^\\d{4}-\\d\\d-\\d\\dT\\d\\d:\\d\\d:\\d\\d", value);
    return true;
  }

  std::string check_array(const json::array& items,
                          const std::string& key,
                          const json::value& argument,
                          const json::object& keywords,
                          const std::string& at) {
    bool good = true;
    if (key == "minItems") good = items.size() >= argument.to_number<size_t>();
    if (key == "maxItems") good = items.size() <= argument.to_number<size_t>();
    if (key == "uniqueItems" && argument.get_bool()) {
      for (size_t a = 0; a < items.size(); ++a) {
        for (size_t b = a + 1; b < items.size(); ++b) good = good && !same(items[a], items[b]);
      }
    }
    if (key == "contains") {
      good = false;
      for (const json::value& item : items) good = good || holds(item, argument);
    }
    if (!good) return at + ": " + key;
    const bool is_prefix = key == "prefixItems" || (key == "items" && argument.is_array());
    const bool is_rest = (key == "items" && !argument.is_array()) || key == "additionalItems";
    if (!is_prefix && !is_rest) return "";
    size_t begin = 0;
    if (is_rest) {
      for (const char* name : {"prefixItems", "items"}) {
        const json::value* prefix = keywords.if_contains(name);
        if (prefix != nullptr && prefix->is_array()) begin = prefix->get_array().size();
      }
    }
    for (size_t idx = begin; idx < items.size(); ++idx) {
      if (is_prefix && idx >= argument.get_array().size()) break;
      const json::value& schema = is_prefix ? argument.get_array()[idx] : argument;
      std::string wrong = check(items[idx], schema, at + "[" + std::to_string(idx) + "]");
      if (!wrong.empty()) return wrong;
    }
    return "";
  }

  std::string check_object(const json::object& members,
                           const std::string& key,
                           const json::value& argument,
                           const json::object& keywords,
                           const std::string& at) {
    if (key == "minProperties" && members.size() < argument.to_number<size_t>()) return at + key;
    if (key == "maxProperties" && members.size() > argument.to_number<size_t>()) return at + key;
    if (key == "required") {
      for (const json::value& name : argument.get_array()) {
        if (members.if_contains(name.get_string()) == nullptr)
          return at + ": required " + json::serialize(name);
      }
    }
    for (const auto& [name, value] : members) {
      std::string wrong =
          check_member(text_of(name), value, key, argument, keywords, at + "." + text_of(name));
      if (!wrong.empty()) return wrong;
    }
    return "";
  }

  std::string check_member(const std::string& name,
                           const json::value& value,
                           const std::string& key,
                           const json::value& argument,
                           const json::object& keywords,
                           const std::string& at) {
    if (key == "properties") {
      const json::value* schema = argument.get_object().if_contains(name);
      return schema == nullptr ? "" : check(value, *schema, at);
    }
    if (key == "propertyNames") return check(json::value(name), argument, at + " (name)");
    if (key == "patternProperties") {
      for (const auto& [pattern, schema] : argument.get_object()) {
        if (!matches(text_of(pattern), name)) continue;
        std::string wrong = check(value, schema, at);
        if (!wrong.empty()) return wrong;
      }
    }
    if (key != "additionalProperties") return "";
    const json::value* properties = keywords.if_contains("properties");
    if (properties != nullptr && properties->get_object().contains(name)) return "";
    if (const json::value* patterns = keywords.if_contains("patternProperties")) {
      for (const auto& [pattern, schema] : patterns->get_object()) {
        if (matches(text_of(pattern), name)) return "";
      }
    }
    return check(value, argument, at);
  }

  const json::value& resolve(std::string_view reference) const {
    if (reference == "#") return root_;
    return root_.at_pointer(json::string_view(reference.data() + 1, reference.size() - 1));
  }

  const json::value& root_;
};

}  // namespace

std::string find_violation(std::string_view text, const json::value& schema) {
  json::parse_options options;
  options.max_depth = 4096;
  boost::system::error_code code;
  const json::value value =
      json::parse(json::string_view(text.data(), text.size()), code, {}, options);
  if (code) return "no JSON: " + std::string(text);
  return Validator(schema).check(value, schema, "$");
}

}  // namespace tandem::tests
