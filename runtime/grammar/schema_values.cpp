// Numbers, strings and arrays of a schema, and the rules that all schemas share.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <map>
#include <numeric>

#include "runtime/grammar/ebnf.h"
#include "runtime/grammar/number_range.h"
#include "runtime/grammar/regex.h"
#include "runtime/grammar/schema_writer.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxCountedKeyLength = 8;
constexpr int64_t kMaxCountedItems = 1024;
constexpr int64_t kMaxEnumeratedMultiples = 512;

// Formats as patterns; what stands here is a part of what the format allows.
const std::map<std::string_view, std::string_view>& format_patterns() {
  static const std::map<std::string_view, std::string_view> kPatterns = {
      {"date", "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])$"},
      {"time",
       "^([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5]"
       "[0-9])$"},
      {"date-time",
       "^[0-9]{4}-(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]"
       "(\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"},
      {"duration",
       "^P([0-9]{1,9}W|[0-9]{1,9}D(T[0-9]{1,9}[HMS])?|T[0-9]{1,9}[HMS]|[0-9]{1,9}[YM])$"},
      {"uuid", "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"},
      {"email",
       "^[A-Za-z0-9_%+-]{1,32}(\\.[A-Za-z0-9_%+-]{1,31})?@([A-Za-z0-9]{1,40}\\.){1,3}[A-Za-z]{2,"
       "24}$"},
      {"hostname", "^([A-Za-z0-9]{1,63}\\.){0,3}[A-Za-z0-9]{1,63}$"},
      {"ipv4",
       "^((25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])\\.){3}(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-"
       "9]?[0-9])$"},
      {"ipv6", "^([0-9a-f]{1,4}:){7}[0-9a-f]{1,4}$"},
      {"uri",
       "^[A-Za-z][A-Za-z0-9+.-]{0,15}://([A-Za-z0-9._~:!$&'()*+,;=-]*@)?"
       "([A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+(:[0-9]*)?"
       "(/([A-Za-z0-9._~:@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*)*"
       "(\\?([A-Za-z0-9._~:@!$&'()*+,;=/?-]|%[0-9A-Fa-f]{2})*)?"
       "(#([A-Za-z0-9._~:@!$&'()*+,;=/?-]|%[0-9A-Fa-f]{2})*)?$"},
  };
  return kPatterns;
}

// Where characters are counted: without users and %, so that behind a scheme of 16 letters, "://"
// and one character it may end anywhere.
constexpr std::string_view kCountedUri =
    "^[A-Za-z][A-Za-z0-9+.-]{0,15}://[A-Za-z0-9._~!$&'()*+,;=-]+(:[0-9]*)?"
    "(/[A-Za-z0-9._~:@!$&'()*+,;=-]*)*"
    "(\\?[A-Za-z0-9._~:@!$&'()*+,;=/?-]*)?(#[A-Za-z0-9._~:@!$&'()*+,;=/?-]*)?$";
constexpr int64_t kUriEndsFrom = 20;
constexpr int64_t kShortestUriLength = 5;

// Formats that JSON Schema defines and that are not told here.
bool is_defined_format(std::string_view format) {
  constexpr std::array<std::string_view, 9> kDefined = {
      "idn-email",    "idn-hostname", "uri-reference",         "iri",  "iri-reference",
      "uri-template", "json-pointer", "relative-json-pointer", "regex"};
  return std::find(kDefined.begin(), kDefined.end(), format) != kDefined.end();
}

std::string repeat(int64_t least, const std::optional<int64_t>& most) {
  if (most) return fmt::format("{{{},{}}}", least, *most);
  return least == 0 ? "*" : fmt::format("{{{},}}", least);
}

// The number of digits k where `divisor` is 10^-k.
std::optional<int> fraction_digits_of(double divisor) {
  for (int digits = 0; digits <= 9; ++digits) {
    if (divisor == std::stod(fmt::format("1e-{}", digits))) return digits;
  }
  return std::nullopt;
}

struct Bounds {
  DecimalRange range;
  std::vector<std::pair<double, std::string>> divisors;  // and where they stand
};

void tighten(
    std::optional<double>& limit, bool& excluded, double value, bool value_excluded, bool is_min) {
  const bool is_tighter = !limit || (is_min ? value > *limit : value < *limit);
  if (is_tighter) {
    limit = value;
    excluded = value_excluded;
  } else if (value == *limit) {
    excluded = excluded || value_excluded;
  }
}

}  // namespace

std::optional<std::string> SchemaWriter::number(const Parts& parts, bool integers_only) {
  Bounds bounds;
  for (const SchemaPart& part : parts) {
    // Draft 4 says `exclusiveMinimum: true` beside `minimum`.
    const auto is_true = [&](std::string_view keyword) {
      const json::value* value = find_keyword(part, keyword);
      return value != nullptr && value->is_bool() && value->get_bool();
    };
    const auto limit = [&](std::string_view keyword) -> std::optional<double> {
      const json::value* value = find_keyword(part, keyword);
      if (value == nullptr || value->is_bool()) return std::nullopt;
      if (value->is_number()) return value->to_number<double>();
      cannot(child_path(part.path, keyword), "a number is expected");
      return std::nullopt;
    };
    DecimalRange& range = bounds.range;
    if (const auto value = limit("minimum"))
      tighten(range.min, range.min_excluded, *value, is_true("exclusiveMinimum"), true);
    if (const auto value = limit("maximum"))
      tighten(range.max, range.max_excluded, *value, is_true("exclusiveMaximum"), false);
    if (const auto value = limit("exclusiveMinimum"))
      tighten(range.min, range.min_excluded, *value, true, true);
    if (const auto value = limit("exclusiveMaximum"))
      tighten(range.max, range.max_excluded, *value, true, false);
    if (const auto value = limit("multipleOf"))
      bounds.divisors.emplace_back(*value, child_path(part.path, "multipleOf"));
  }
  std::vector<int64_t> whole_divisors;
  for (const auto& [divisor, path] : bounds.divisors) {
    const auto digits = fraction_digits_of(divisor);
    if (digits) {
      auto& most = bounds.range.num_fraction_digits;
      most = most ? std::min(*most, *digits) : *digits;
    } else if (divisor >= 2 && divisor <= 1e9 && std::trunc(divisor) == divisor) {
      whole_divisors.push_back(static_cast<int64_t>(divisor));
    } else {
      cannot(path, "only whole numbers and powers of ten up to 1 can be enforced");
    }
  }
  if (integers_only || !whole_divisors.empty())
    return integer(bounds.range, whole_divisors, parts.front().path);
  if (!bounds.range.min && !bounds.range.max && !bounds.range.num_fraction_digits) return "number";
  auto range = decimal_range_regex(bounds.range);
  if (range) return add_rule(ebnf_regex(*range));
  if (range.error().message.empty()) return std::nullopt;
  cannot(parts.front().path, range.error().message);
  return "number";
}

// Integers of a range that all `divisors` divide.
std::optional<std::string> SchemaWriter::integer(const DecimalRange& range,
                                                 const std::vector<int64_t>& divisors,
                                                 const std::string& path) {
  const auto clamped = [](double value) {
    const auto largest = static_cast<double>(kLargestInteger);
    if (value >= largest) return kLargestInteger;
    if (value <= -largest) return -kLargestInteger;
    return static_cast<int64_t>(value);
  };
  int64_t min = -kLargestInteger;
  int64_t max = kLargestInteger;
  if (range.min) {
    min = clamped(std::ceil(*range.min));
    if (range.min_excluded && static_cast<double>(min) == *range.min) ++min;
  }
  if (range.max) {
    max = clamped(std::floor(*range.max));
    if (range.max_excluded && static_cast<double>(max) == *range.max) --max;
  }
  if (min > max) return std::nullopt;
  if (divisors.empty()) {
    return range.min || range.max ? add_rule(ebnf_regex(integer_range_regex(min, max))) : "integer";
  }
  int64_t divisor = 1;
  for (const int64_t other : divisors) {
    divisor = std::lcm(divisor, other);
    if (divisor > kLargestInteger / 1024) {
      cannot(path, "divisors of 'multipleOf' that are too large together");
      return add_rule(ebnf_regex(integer_range_regex(min, max)));
    }
  }
  int64_t first = min / divisor * divisor;
  if (first < min) first += divisor;
  if (first > max) return std::nullopt;
  if ((max - first) / divisor >= kMaxEnumeratedMultiples) {
    // All multiples of a power of ten end with its zeros.
    int num_zeros = 0;
    int64_t power = 1;
    while (power < divisor) power *= 10, ++num_zeros;
    const bool is_open = !range.min && !range.max;
    if (power == divisor && is_open)
      return add_rule(ebnf_regex(fmt::format("0|(|-)[1-9][0-9]{{0,12}}0{{{}}}", num_zeros)));
    cannot(path, "'multipleOf' can only be enforced in a range of few multiples");
    return add_rule(ebnf_regex(integer_range_regex(min, max)));
  }
  std::string choices;
  for (int64_t value = first; value <= max; value += divisor)
    choices += fmt::format("{}{}", choices.empty() ? "" : "|", value);
  return add_rule(ebnf_regex(choices));
}

std::optional<std::string> SchemaWriter::string(const Parts& parts) {
  const StringLengths wanted{.least = count_of(parts, "minLength", true).value_or(0),
                             .most = count_of(parts, "maxLength", false)};
  if (wanted.most && wanted.least > *wanted.most) return std::nullopt;
  std::string body;  // of a pattern
  PatternLengths lengths;
  const auto add_pattern = [&](std::string_view pattern, const std::string& path) {
    if (!body.empty()) return cannot(path, "beside another pattern or format cannot be enforced");
    const auto expression = rewrite_regex(pattern, RegexUse::kInsideJsonString);
    if (!expression)
      return cannot(path, fmt::format("{} cannot be enforced", expression.error().message));
    body = *expression;
    lengths = *pattern_lengths(pattern, RegexUse::kInsideJsonString);
  };
  for (const SchemaPart& part : parts) {
    const json::value* pattern = find_keyword(part, "pattern");
    if (pattern == nullptr) continue;
    const std::string path = child_path(part.path, "pattern");
    if (!pattern->is_string()) {
      cannot(path, "a string is expected");
      continue;
    }
    add_pattern({pattern->get_string().data(), pattern->get_string().size()}, path);
  }
  for (const SchemaPart& part : parts) {
    const json::value* format = find_keyword(part, "format");
    if (format == nullptr || !format->is_string()) continue;
    const std::string_view name(format->get_string().data(), format->get_string().size());
    const std::string path = child_path(part.path, "format");
    const auto known = format_patterns().find(name);
    if (known != format_patterns().end()) {
      const bool is_counted_uri =
          name == "uri" && (wanted.most || wanted.least > kShortestUriLength);
      add_pattern(is_counted_uri ? kCountedUri : known->second, path);
      if (is_counted_uri && !lengths.ends_from) lengths.ends_from = kUriEndsFrom;
    } else if (is_defined_format(name)) {
      cannot(path, fmt::format("'{}' cannot be enforced", name));
    }
  }
  if (!body.empty()) return pattern_rule(parts, body, lengths, wanted);
  if (is_key_) return key_rule(parts, wanted);
  place().strings = SchemaPlace::Strings::kFree;
  place().lengths = wanted;
  return "string";
}

// Lengths beside a pattern: implied by it, impossible, or counted where that leads to no dead end.
std::optional<std::string> SchemaWriter::pattern_rule(const Parts& parts,
                                                      const std::string& body,
                                                      const PatternLengths& pattern,
                                                      const StringLengths& wanted) {
  const bool is_implied = pattern.least >= wanted.least &&
                          (!wanted.most || (pattern.most && *pattern.most <= *wanted.most));
  if ((wanted.most && pattern.least > *wanted.most) ||
      (pattern.most && *pattern.most < wanted.least))
    return std::nullopt;
  place().strings = SchemaPlace::Strings::kPatterned;
  if (!is_implied) {
    const bool can_count =
        !is_key_ && pattern.ends_from && (!wanted.most || *pattern.ends_from <= *wanted.most);
    if (can_count) {
      place().lengths = wanted;
    } else {
      cannot(parts.front().path,
             "'minLength' or 'maxLength' beside this pattern cannot be enforced");
    }
  }
  return add_rule(ebnf_regex(fmt::format("\"{}\"", body)));
}

// The plan of lengths knows no keys: their characters are counted by states, each of which takes
// some 20 ms to compile on K2's vocabulary.
std::string SchemaWriter::key_rule(const Parts& parts, const StringLengths& wanted) {
  if (wanted == StringLengths{}) return "string";
  if (std::max(wanted.least, wanted.most.value_or(0)) > kMaxCountedKeyLength) {
    cannot(parts.front().path,
           fmt::format("lengths of names above {} cannot be enforced", kMaxCountedKeyLength));
    return "string";
  }
  const std::string& character = json_character_regex();
  const std::string length = wanted.most ? fmt::format("{{{},{}}}", wanted.least, *wanted.most)
                                         : fmt::format("{{{}}}{}*", wanted.least, character);
  return add_rule(ebnf_regex(fmt::format("\"{}{}\"", character, length)));
}

std::optional<std::string> SchemaWriter::array(const Parts& parts) {
  const int64_t least = count_of(parts, "minItems", true).value_or(0);
  std::optional<int64_t> most = count_of(parts, "maxItems", false);
  size_t num_prefix = 0;
  bool has_items = false;
  // Draft-07 writes prefixItems as a list in `items`, and items as additionalItems.
  const auto prefix_of = [](const SchemaPart& part) -> const json::array* {
    const json::value* prefix = find_keyword(part, "prefixItems");
    if (prefix == nullptr) prefix = find_keyword(part, "items");
    return prefix != nullptr ? prefix->if_array() : nullptr;
  };
  const auto rest_of = [](const SchemaPart& part) -> const json::value* {
    const json::value* items = find_keyword(part, "items");
    return items != nullptr && items->is_array() ? find_keyword(part, "additionalItems") : items;
  };
  for (const SchemaPart& part : parts) {
    if (const json::array* prefix = prefix_of(part))
      num_prefix = std::max(num_prefix, prefix->size());
    has_items = has_items || rest_of(part) != nullptr;
  }
  const auto item_rule = [&](size_t idx) {
    Conjunction schemas;
    for (const SchemaPart& part : parts) {
      const json::array* prefix = prefix_of(part);
      if (prefix != nullptr && idx < prefix->size()) {
        schemas.push_back(
            {&(*prefix)[idx], child_path(part.path, fmt::format("prefixItems.{}", idx)), false});
      } else if (const json::value* rest = rest_of(part)) {
        schemas.push_back({rest, child_path(part.path, "items"), false});
      } else if (const json::value* other = find_keyword(part, "unevaluatedItems");
                 other != nullptr && idx >= num_prefix && !has_items) {
        schemas.push_back({other, child_path(part.path, "unevaluatedItems"), false});
      }
    }
    return schemas.empty() ? std::optional<std::string>("any") : value_rule(schemas);
  };
  std::vector<std::string> items;
  while (items.size() < num_prefix && (!most || static_cast<int64_t>(items.size()) < *most)) {
    const auto rule = item_rule(items.size());
    if (!rule) break;
    items.push_back(*rule);
  }
  std::optional<std::string> rest;
  if (items.size() == num_prefix && (has_items || num_prefix == 0)) rest = item_rule(num_prefix);
  if (most && *most > kMaxCountedItems) {
    cannot(parts.front().path,
           fmt::format("'maxItems' above {} cannot be enforced", kMaxCountedItems));
    most = std::nullopt;
  }
  if (least > kMaxCountedItems) {
    cannot(parts.front().path,
           fmt::format("'minItems' above {} cannot be enforced", kMaxCountedItems));
    return "array";
  }
  for (const std::string& item : items) place().first_items.push_back(place_of(item));
  if (rest) place().other_items = place_of(*rest);
  return array_of(items, rest, least, most);
}

// From the end: what may follow the items so far. A comma stands before every item but the first.
std::optional<std::string> SchemaWriter::array_of(const std::vector<std::string>& items,
                                                  const std::optional<std::string>& rest,
                                                  int64_t least,
                                                  const std::optional<int64_t>& most) {
  const auto num_items = static_cast<int64_t>(items.size());
  if (most && *most < least) return std::nullopt;
  if (!rest && num_items < least) return std::nullopt;
  std::string tail = "\"\"";
  if (rest && (!most || *most > num_items)) {
    const int64_t needed = std::max<int64_t>(least - num_items, 0);
    std::optional<int64_t> possible;
    if (most) possible = *most - num_items;
    if (num_items > 0) {
      tail = fmt::format("(separator {}){}", *rest, repeat(needed, possible));
    } else {
      if (possible) --*possible;
      tail = fmt::format("{} (separator {}){}", *rest, *rest,
                         repeat(std::max<int64_t>(needed - 1, 0), possible));
      if (least == 0) tail = "\"\" | " + tail;
    }
    tail = add_rule(tail);
  }
  for (int64_t idx = num_items; idx-- > 0;) {
    const std::string comma = idx > 0 ? "separator " : "";
    std::string body = comma + items[static_cast<size_t>(idx)] + " " + tail;
    if (idx >= least) body = "\"\" | " + body;
    tail = add_rule(body);
  }
  return add_rule("\"[\" space " + tail + " space \"]\"");
}

std::string shared_json_rules() {
  constexpr std::string_view kSpace = "(| |\n[ \t]{0,16})";
  std::string rules;
  const auto add = [&](std::string_view name, std::string_view regex) {
    rules += fmt::format("{} ::= {}\n", name, ebnf_regex(regex));
  };
  // What follows a string tells early which tokens that end it and go on are possible.
  rules += fmt::format("string ::= {} (= [ \\n\\t]* [,}}\\]:])\n",
                       ebnf_regex(fmt::format("\"{}*\"", json_character_regex())));
  add("integer", "0|(|-)[1-9][0-9]{0,17}");
  add("number", "(|-)(0|[1-9][0-9]{0,17})(|\\.[0-9]{1,17})(|[eE](|[+-])[0-9]{1,2})");
  add("space", kSpace);
  add("separator", fmt::format(",{}", kSpace));
  add("colon", ":(| )");
  return rules + R"(boolean ::= "true" | "false"
any ::= string | number | boolean | "null" | array | object
array ::= "[" space (any (separator any)*)? space "]"
object ::= "{" space (member (separator member)*)? space "}"
member ::= string colon any
)";
}

std::string json_object_grammar() { return "root ::= object\n" + shared_json_rules(); }

}  // namespace tandem
