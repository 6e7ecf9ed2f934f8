#include "runtime/grammar/schema_check.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <map>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

#include "runtime/grammar/ebnf.h"
#include "runtime/grammar/pattern_search.h"
#include "runtime/grammar/schema_parts.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxSteps = 4'000'000;  // schemas met and values compared: some 100 ms
constexpr int kMaxDepth = 256;            // of schemas inside each other

constexpr std::array<std::string_view, 4> kUnchecked = {"format", "$dynamicRef", "$recursiveRef",
                                                        "contentSchema"};

struct TooMuch {};

std::string_view as_view(const json::string& text) { return {text.data(), text.size()}; }
std::string_view as_view(json::string_view text) { return {text.data(), text.size()}; }

int64_t num_characters(const json::string& text) {
  return static_cast<int64_t>(code_points(as_view(text)).size());
}

// What the keywords of a schema have looked at, for its unevaluatedItems and -Properties.
struct Evaluated {
  size_t num_items = 0;  // leading ones
  std::set<size_t> items;
  std::set<std::string_view> names;

  void add(const Evaluated& other) {
    num_items = std::max(num_items, other.num_items);
    items.insert(other.items.begin(), other.items.end());
    names.insert(other.names.begin(), other.names.end());
  }
};

class Checker {
 public:
  Checker(const json::value& root, const json::value* known) : root_(root), known_(known) {}

  bool check(const json::value& value, const json::value& schema, Evaluated& evaluated) {
    spend(1);
    if (schema.is_bool()) return schema.get_bool() || wrong("no value is allowed here");
    if (!schema.is_object()) return true;
    if (++depth_ > kMaxDepth) throw TooMuch{};
    const json::object& keywords = schema.get_object();
    Evaluated own;
    const bool holds = check_any(value, schema, own) && check_parts(value, keywords, own) &&
                       check_kind(value, keywords, own);
    --depth_;
    if (holds) evaluated.add(own);
    return holds;
  }

  [[nodiscard]] const std::string& violation() const { return violation_; }
  [[nodiscard]] bool is_complete() const { return is_complete_; }
  [[nodiscard]] int64_t num_steps() const { return num_steps_; }

 private:
  bool check(const json::value& value, const json::value& schema) {
    Evaluated unused;
    return check(value, schema, unused);
  }

  // Whether it would hold; what is wrong is not reported.
  bool would_hold(const json::value& value, const json::value& schema, Evaluated& evaluated) {
    ++num_trials_;
    const bool holds = check(value, schema, evaluated);
    --num_trials_;
    return holds;
  }

  void spend(int64_t num_steps) {
    if ((num_steps_ += num_steps) > kMaxSteps) throw TooMuch{};
  }

  bool wrong(std::string_view what) {
    if (num_trials_ == 0) {
      violation_.clear();
      for (const std::string& step : place_) violation_ += step;
      if (!violation_.empty()) violation_ += ": ";
      violation_ += what;
    }
    return false;
  }

  bool check_member(std::string_view name, const json::value& value, const json::value& schema) {
    place_.push_back(fmt::format("{}{}", place_.empty() ? "" : ".", name));
    const bool holds = check(value, schema);
    place_.pop_back();
    return holds;
  }

  bool check_item(size_t idx, const json::value& value, const json::value& schema) {
    place_.push_back(fmt::format("[{}]", idx));
    const bool holds = check(value, schema);
    place_.pop_back();
    return holds;
  }

  bool check_any(const json::value& value, const json::value& schema, Evaluated& evaluated) {
    const json::object& keywords = schema.get_object();
    if (!(types_of({&schema, ""}) & type_of(value)))
      return wrong("type: " + json::serialize(keywords.at("type")) + " is expected");
    const json::value* constant = keywords.if_contains("const");
    if (constant != nullptr && constant != known_ && !equal_values(*constant, value))
      return wrong("const: another value is expected");
    const json::value* listed = keywords.if_contains("enum");
    if (listed != nullptr && listed != known_ && listed->is_array()) {
      // Lists and objects are compared by their keys.
      const size_t num_bytes = value.is_structured() ? value_key(value).size() : 1;
      spend(static_cast<int64_t>(listed->get_array().size() * num_bytes));
      if (std::none_of(listed->get_array().begin(), listed->get_array().end(),
                       [&](const json::value& one) { return equal_values(one, value); }))
        return wrong("enum: it is none of the listed values");
    }
    if (const json::value* reference = keywords.if_contains("$ref")) {
      const json::value* target = reference->is_string()
                                      ? find_reference(as_view(reference->get_string()), root_)
                                      : nullptr;
      is_complete_ = is_complete_ && target != nullptr;
      if (target != nullptr && !check(value, *target, evaluated)) return false;
    }
    for (const std::string_view keyword : kUnchecked) {
      if (keyword != "format" && keywords.contains(keyword)) is_complete_ = false;
    }
    return true;
  }

  // Schemas of the same value.
  bool check_parts(const json::value& value, const json::object& keywords, Evaluated& evaluated) {
    if (const json::array* all = array_of(keywords, "allOf")) {
      for (const json::value& part : *all) {
        if (!check(value, part, evaluated)) return false;
      }
    }
    for (const std::string_view keyword : {"anyOf", "oneOf"}) {
      const json::array* options = array_of(keywords, keyword);
      if (options == nullptr) continue;
      const auto num_holding = std::count_if(
          options->begin(), options->end(),
          [&](const json::value& option) { return would_hold(value, option, evaluated); });
      if (num_holding == 0) return wrong(fmt::format("{}: no alternative holds", keyword));
      if (num_holding > 1 && keyword == "oneOf")
        return wrong(fmt::format("oneOf: {} alternatives hold", num_holding));
    }
    Evaluated unused;
    const json::value* excluded = keywords.if_contains("not");
    if (excluded != nullptr && would_hold(value, *excluded, unused))
      return wrong("not: the excluded schema holds");
    if (const json::value* condition = keywords.if_contains("if")) {
      const bool holds = would_hold(value, *condition, evaluated);
      const json::value* branch = keywords.if_contains(holds ? "then" : "else");
      if (branch != nullptr && !check(value, *branch, evaluated)) return false;
    }
    return true;
  }

  bool check_kind(const json::value& value, const json::object& keywords, Evaluated& evaluated) {
    if (value.is_number()) return check_number(value, keywords);
    if (const json::string* text = value.if_string()) return check_string(*text, keywords);
    if (const json::array* items = value.if_array())
      return check_array(*items, keywords, evaluated);
    if (const json::object* members = value.if_object())
      return check_object(*members, value, keywords, evaluated);
    return true;
  }

  bool check_number(const json::value& value, const json::object& keywords) {
    const auto number = value.to_number<double>();
    const auto limit = [&](std::string_view keyword) -> std::optional<double> {
      const json::value* argument = keywords.if_contains(keyword);
      if (argument == nullptr || !argument->is_number()) return std::nullopt;
      return argument->to_number<double>();
    };
    // Draft 4 says `exclusiveMinimum: true` beside `minimum`.
    const auto is_true = [&](std::string_view keyword) {
      const json::value* argument = keywords.if_contains(keyword);
      return argument != nullptr && argument->is_bool() && argument->get_bool();
    };
    if (const auto least = limit("minimum")) {
      if (number < *least || (number == *least && is_true("exclusiveMinimum")))
        return wrong(fmt::format("minimum: {} is below {}", number, *least));
    }
    if (const auto most = limit("maximum")) {
      if (number > *most || (number == *most && is_true("exclusiveMaximum")))
        return wrong(fmt::format("maximum: {} is above {}", number, *most));
    }
    if (const auto least = limit("exclusiveMinimum"); least && number <= *least)
      return wrong(fmt::format("exclusiveMinimum: {} is not above {}", number, *least));
    if (const auto most = limit("exclusiveMaximum"); most && number >= *most)
      return wrong(fmt::format("exclusiveMaximum: {} is not below {}", number, *most));
    const auto divisor = limit("multipleOf");
    if (divisor && *divisor > 0 && !is_multiple(value, keywords.at("multipleOf")))
      return wrong(fmt::format("multipleOf: {} is no multiple of {}", number, *divisor));
    return true;
  }

  // Fractions up to what decimal digits lose in a double.
  static bool is_multiple(const json::value& value, const json::value& divisor) {
    if (value.is_int64() && divisor.is_int64()) return value.get_int64() % divisor.get_int64() == 0;
    const double quotient = value.to_number<double>() / divisor.to_number<double>();
    if (!std::isfinite(quotient))
      return std::fmod(value.to_number<double>(), divisor.to_number<double>()) == 0;
    return std::abs(quotient - std::round(quotient)) <= 1e-9 * std::max(1.0, std::abs(quotient));
  }

  bool check_string(const json::string& text, const json::object& keywords) {
    if (const auto least = count_of(keywords, "minLength"); least && num_characters(text) < *least)
      return wrong(fmt::format("minLength: fewer than {} characters", *least));
    if (const auto most = count_of(keywords, "maxLength"); most && num_characters(text) > *most)
      return wrong(fmt::format("maxLength: more than {} characters", *most));
    const json::value* pattern = keywords.if_contains("pattern");
    if (pattern != nullptr && pattern->is_string() &&
        !matches(as_view(pattern->get_string()), as_view(text)).value_or(true))
      return wrong("pattern: no match of " + json::serialize(*pattern));
    return true;
  }

  bool check_array(const json::array& items, const json::object& keywords, Evaluated& evaluated) {
    const auto num_items = static_cast<int64_t>(items.size());
    if (const auto least = count_of(keywords, "minItems"); least && num_items < *least)
      return wrong(fmt::format("minItems: {} items, at least {} are expected", num_items, *least));
    if (const auto most = count_of(keywords, "maxItems"); most && num_items > *most)
      return wrong(fmt::format("maxItems: {} items, at most {} are expected", num_items, *most));
    // Draft-07 writes prefixItems as a list in `items`, and items as additionalItems.
    const json::array* prefix = array_of(keywords, "prefixItems");
    const json::value* rest = keywords.if_contains("items");
    if (rest != nullptr && rest->is_array()) {
      if (prefix == nullptr) prefix = rest->if_array();
      rest = keywords.if_contains("additionalItems");
    }
    const size_t num_prefix = prefix != nullptr ? prefix->size() : 0;
    for (size_t idx = 0; idx < items.size(); ++idx) {
      const json::value* schema = idx < num_prefix ? &(*prefix)[idx] : rest;
      if (schema != nullptr && !check_item(idx, items[idx], *schema)) return false;
    }
    evaluated.num_items =
        std::max(evaluated.num_items, rest != nullptr ? items.size() : num_prefix);
    if (const json::value* unique = keywords.if_contains("uniqueItems")) {
      if (unique->is_bool() && unique->get_bool() && !check_unique(items)) return false;
    }
    return check_contains(items, keywords, evaluated) &&
           check_unevaluated_items(items, keywords, evaluated);
  }

  bool check_unique(const json::array& items) {
    std::unordered_map<std::string, size_t> idx_of;
    for (size_t idx = 0; idx < items.size(); ++idx) {
      const auto [known, is_new] = idx_of.try_emplace(value_key(items[idx]), idx);
      if (!is_new)
        return wrong(fmt::format("uniqueItems: items {} and {} are the same", known->second, idx));
    }
    return true;
  }

  bool check_contains(const json::array& items,
                      const json::object& keywords,
                      Evaluated& evaluated) {
    const json::value* schema = keywords.if_contains("contains");
    if (schema == nullptr) return true;
    int64_t num_found = 0;
    for (size_t idx = 0; idx < items.size(); ++idx) {
      Evaluated unused;
      if (!would_hold(items[idx], *schema, unused)) continue;
      ++num_found;
      evaluated.items.insert(idx);
    }
    const int64_t least = count_of(keywords, "minContains").value_or(1);
    if (num_found < least)
      return wrong(fmt::format("contains: {} such items, at least {} expected", num_found, least));
    const auto most = count_of(keywords, "maxContains");
    if (most && num_found > *most)
      return wrong(fmt::format("maxContains: {} such items, at most {}", num_found, *most));
    return true;
  }

  bool check_unevaluated_items(const json::array& items,
                               const json::object& keywords,
                               Evaluated& evaluated) {
    const json::value* schema = keywords.if_contains("unevaluatedItems");
    if (schema == nullptr || !is_complete_) return true;
    for (size_t idx = evaluated.num_items; idx < items.size(); ++idx) {
      if (!evaluated.items.contains(idx) && !check_item(idx, items[idx], *schema)) return false;
    }
    evaluated.num_items = items.size();
    return true;
  }

  bool check_object(const json::object& members,
                    const json::value& value,
                    const json::object& keywords,
                    Evaluated& evaluated) {
    const auto num_members = static_cast<int64_t>(members.size());
    if (const auto least = count_of(keywords, "minProperties"); least && num_members < *least)
      return wrong(fmt::format("minProperties: {}, at least {} expected", num_members, *least));
    if (const auto most = count_of(keywords, "maxProperties"); most && num_members > *most)
      return wrong(fmt::format("maxProperties: {}, at most {} expected", num_members, *most));
    if (!has_all(members, array_of(keywords, "required"), "required")) return false;
    if (const json::value* names = keywords.if_contains("propertyNames")) {
      for (const auto& member : members) {
        if (!check_member(as_view(member.key()), json::value(member.key()), *names)) return false;
      }
    }
    return check_members(members, keywords, evaluated) &&
           check_dependencies(members, value, keywords, evaluated) &&
           check_unevaluated_members(members, keywords, evaluated);
  }

  bool has_all(const json::object& members, const json::array* names, std::string_view keyword) {
    if (names == nullptr) return true;
    for (const json::value& name : *names) {
      if (name.is_string() && !members.contains(name.get_string()))
        return wrong(fmt::format("{}: {} is missing", keyword, json::serialize(name)));
    }
    return true;
  }

  bool check_members(const json::object& members,
                     const json::object& keywords,
                     Evaluated& evaluated) {
    const json::object* properties = object_of(keywords, "properties");
    const json::object* patterns = object_of(keywords, "patternProperties");
    const json::value* additional = keywords.if_contains("additionalProperties");
    for (const auto& member : members) {
      const std::string_view name = as_view(member.key());
      bool is_known = false;
      const auto check_by = [&](const json::value& schema) {
        is_known = true;
        return check_member(name, member.value(), schema);
      };
      const json::value* own = properties ? properties->if_contains(member.key()) : nullptr;
      if (own != nullptr && !check_by(*own)) return false;
      if (patterns != nullptr) {
        for (const auto& pattern : *patterns) {
          if (matches(as_view(pattern.key()), name).value_or(false) && !check_by(pattern.value()))
            return false;
        }
      }
      if (!is_known && additional != nullptr && !check_by(*additional)) return false;
      if (is_known) evaluated.names.insert(name);
    }
    return true;
  }

  // dependentRequired, dependentSchemas, and draft-07's `dependencies`, which are both.
  bool check_dependencies(const json::object& members,
                          const json::value& value,
                          const json::object& keywords,
                          Evaluated& evaluated) {
    for (const std::string_view keyword :
         {"dependentRequired", "dependentSchemas", "dependencies"}) {
      const json::object* dependencies = object_of(keywords, keyword);
      if (dependencies == nullptr) continue;
      for (const auto& dependency : *dependencies) {
        if (!members.contains(dependency.key())) continue;
        const json::value& needs = dependency.value();
        const bool holds = needs.is_array() ? has_all(members, needs.if_array(), keyword)
                                            : check(value, needs, evaluated);
        if (!holds) return false;
      }
    }
    return true;
  }

  bool check_unevaluated_members(const json::object& members,
                                 const json::object& keywords,
                                 Evaluated& evaluated) {
    const json::value* schema = keywords.if_contains("unevaluatedProperties");
    if (schema == nullptr || !is_complete_) return true;
    for (const auto& member : members) {
      const std::string_view name = as_view(member.key());
      if (!evaluated.names.insert(name).second) continue;
      if (!check_member(name, member.value(), *schema)) return false;
    }
    return true;
  }

  std::optional<bool> matches(std::string_view pattern, std::string_view text) {
    spend(100);
    const PatternSearch& search =
        patterns_.try_emplace(std::string(pattern), pattern).first->second;
    const std::optional<bool> found = search.matches_in(text);
    is_complete_ = is_complete_ && found.has_value();
    return found;
  }

  static const json::array* array_of(const json::object& keywords, std::string_view keyword) {
    const json::value* argument = keywords.if_contains(keyword);
    return argument != nullptr ? argument->if_array() : nullptr;
  }
  static const json::object* object_of(const json::object& keywords, std::string_view keyword) {
    const json::value* argument = keywords.if_contains(keyword);
    return argument != nullptr ? argument->if_object() : nullptr;
  }
  static std::optional<int64_t> count_of(const json::object& keywords, std::string_view keyword) {
    const json::value* argument = keywords.if_contains(keyword);
    if (argument == nullptr || !argument->is_number()) return std::nullopt;
    return static_cast<int64_t>(std::clamp(argument->to_number<double>(), 0.0, 9e15));
  }

  const json::value& root_;
  const json::value* known_;
  std::map<std::string, PatternSearch> patterns_;
  std::vector<std::string> place_;  // the way from the root to the value at hand
  int num_trials_ = 0;
  int64_t num_steps_ = 0;
  int depth_ = 0;
  bool is_complete_ = true;
  std::string violation_;
};

}  // namespace

SchemaVerdict check_schema(const json::value& value,
                           const json::value& schema,
                           const json::value& root,
                           const json::value* known) {
  Checker checker(root, known);
  Evaluated evaluated;
  try {
    if (!checker.check(value, schema, evaluated))
      return {checker.violation(), true, checker.num_steps()};
    return {std::nullopt, checker.is_complete(), checker.num_steps()};
  } catch (const TooMuch&) {
    return {std::nullopt, false, checker.num_steps()};
  }
}

std::span<const std::string_view> unchecked_keywords() { return kUnchecked; }

}  // namespace tandem
