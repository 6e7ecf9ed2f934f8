#include "runtime/grammar/schema_writer.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>
#include <utility>

#include "runtime/grammar/ebnf.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr int kMaxRules = 20'000;
constexpr int kMaxDepth = 256;
constexpr size_t kMaxCombinations = 64;
constexpr size_t kMaxEbnfBytes = 8 << 20;

// Keywords that say something about values and that no grammar here enforces.
constexpr std::array<std::string_view, 12> kUnsupported = {"not",
                                                           "if",
                                                           "uniqueItems",
                                                           "contains",
                                                           "dependentRequired",
                                                           "dependentSchemas",
                                                           "dependencies",
                                                           "extends",
                                                           "disallow",
                                                           "$dynamicRef",
                                                           "$recursiveRef",
                                                           "contentSchema"};

struct KeywordKind {
  std::string_view keyword;
  unsigned types;
};
// What a schema without `type` speaks of.
constexpr std::array<KeywordKind, 24> kKinds = {{{"properties", kObjectType},
                                                 {"required", kObjectType},
                                                 {"additionalProperties", kObjectType},
                                                 {"patternProperties", kObjectType},
                                                 {"propertyNames", kObjectType},
                                                 {"minProperties", kObjectType},
                                                 {"maxProperties", kObjectType},
                                                 {"unevaluatedProperties", kObjectType},
                                                 {"items", kArrayType},
                                                 {"prefixItems", kArrayType},
                                                 {"minItems", kArrayType},
                                                 {"maxItems", kArrayType},
                                                 {"uniqueItems", kArrayType},
                                                 {"contains", kArrayType},
                                                 {"unevaluatedItems", kArrayType},
                                                 {"minLength", kStringType},
                                                 {"maxLength", kStringType},
                                                 {"pattern", kStringType},
                                                 {"format", kStringType},
                                                 {"minimum", kNumberTypes},
                                                 {"maximum", kNumberTypes},
                                                 {"exclusiveMinimum", kNumberTypes},
                                                 {"exclusiveMaximum", kNumberTypes},
                                                 {"multipleOf", kNumberTypes}}};

void add_choice(std::string& choices, const std::string& choice) {
  if (!choices.empty()) choices += " | ";
  choices += choice;
}

unsigned kinds_spoken_of(const SchemaPart& part) {
  unsigned kinds = 0;
  for (const auto& [keyword, kind] : kKinds) {
    if (find_keyword(part, keyword) != nullptr) kinds |= kind;
  }
  return kinds;
}

unsigned types_spoken_of(const std::vector<SchemaPart>& parts) {
  unsigned types = kAllTypes;
  bool is_typed = false;
  unsigned spoken_of = 0;
  for (const SchemaPart& part : parts) {
    is_typed = is_typed || find_keyword(part, "type") != nullptr;
    types &= types_of(part);
    spoken_of |= kinds_spoken_of(part);
  }
  return is_typed || spoken_of == 0 ? types : types & spoken_of;
}

bool says_nothing(const std::vector<SchemaPart>& parts) {
  return std::all_of(parts.begin(), parts.end(),
                     [](const SchemaPart& part) { return kinds_spoken_of(part) == 0; });
}

// A constant of the schema as the model would write it.
std::string constant(const json::value& value) {
  if (const json::string* text = value.if_string()) {
    return ebnf_literal('"' + json_string_body({text->data(), text->size()}) + '"');
  }
  std::string expression;
  if (const json::array* items = value.if_array()) {
    for (const json::value& item : *items)
      expression += (expression.empty() ? "" : " separator ") + constant(item);
    return "\"[\" " + expression + " \"]\"";
  }
  if (const json::object* members = value.if_object()) {
    for (const auto& member : *members) {
      expression += expression.empty() ? "" : " separator ";
      expression += constant(json::value(member.key())) + " colon " + constant(member.value());
    }
    return "\"{\" " + expression + " \"}\"";
  }
  return ebnf_literal(json::serialize(value));
}

int64_t num_code_points(const json::value& text) {
  const json::string& string = text.get_string();
  return static_cast<int64_t>(code_points({string.data(), string.size()}).size());
}

}  // namespace

std::span<const std::string_view> unenforced_keywords() { return kUnsupported; }

SchemaWriter::SchemaWriter(const json::value& root, SchemaPolicy policy)
    : root_(root), policy_(policy) {}

std::optional<SchemaGrammar> SchemaWriter::write() {
  static const json::value kAnyObject = {{"type", "object"}};
  Conjunction schemas = {{&root_, "", false}};
  if (policy_ == SchemaPolicy::kArguments) schemas.push_back({&kAnyObject, "", false});
  const auto rule = value_rule(schemas);
  if (!rule) return std::nullopt;
  std::vector<std::string> conflicts;
  grammar_.lengths = places_.build(place_of(*rule), conflicts);
  for (const std::string& path : conflicts)
    cannot(path, "lengths of strings that differ between alternatives cannot be enforced");
  grammar_.ebnf = "root ::= " + *rule + "\n" + grammar_.ebnf + shared_json_rules();
  return std::move(grammar_);
}

void SchemaWriter::cannot(const std::string& path, std::string_view what) {
  std::string message = path.empty() ? std::string(what) : fmt::format("{}: {}", path, what);
  if (policy_ == SchemaPolicy::kExact) throw SchemaRefusal{std::move(message)};
  grammar_.unenforced.push_back(std::move(message));
}

std::string SchemaWriter::new_rule_name() {
  if (++num_rules_ > kMaxRules || grammar_.ebnf.size() > kMaxEbnfBytes)
    throw SchemaRefusal{"the schema is too large for a grammar"};
  return fmt::format("r{}", num_rules_);
}

void SchemaWriter::set_rule(const std::string& name, const std::string& body) {
  grammar_.ebnf += fmt::format("{} ::= {}\n", name, body);
}

std::string SchemaWriter::add_rule(const std::string& body) {
  const auto [found, is_new] = name_of_body_.try_emplace(body);
  if (is_new) {
    found->second = new_rule_name();
    set_rule(found->second, body);
  }
  return found->second;
}

std::optional<std::string> SchemaWriter::value_rule(const Conjunction& conjunction) {
  std::string key;
  for (const SchemaRef& ref : conjunction) {
    key += fmt::format("{}{},", static_cast<const void*>(ref.schema), ref.is_flat ? "-" : "");
  }
  const auto found = rule_of_.find(key);
  if (found != rule_of_.end()) return found->second;
  if (++depth_ > kMaxDepth) throw SchemaRefusal{"the schema is nested too deeply"};
  // Known before it is written: a schema may refer to itself.
  const std::string name = new_rule_name();
  rule_of_[key] = name;
  const int32_t outer_place = current_place_;
  current_place_ = places_.add(conjunction.front().path);
  place_of_rule_[name] = current_place_;
  const std::optional<std::string> choices = value_choices(conjunction);
  current_place_ = outer_place;
  --depth_;
  set_rule(name, choices.value_or("[^\\u0000-\\U0010ffff]"));
  if (!choices) rule_of_[key] = std::nullopt;
  return rule_of_[key];
}

std::optional<std::string> SchemaWriter::value_choices(const Conjunction& conjunction) {
  const FlatSchema flat = flatten(conjunction, root_);
  if (flat.is_too_deep) throw SchemaRefusal{"the schema is nested too deeply"};
  for (const std::string& problem : flat.problems)
    cannot(problem, "a schema or a reference inside this document is expected");
  if (flat.is_false) return std::nullopt;
  check_keywords(flat);
  if (!flat.groups.empty()) return group_choices(flat);

  const Parts& parts = flat.parts;
  for (const SchemaPart& part : parts) {
    const bool is_constant = find_keyword(part, "const") != nullptr;
    const std::string_view keyword = is_constant ? "const" : "enum";
    const json::value* list = find_keyword(part, keyword);
    if (list == nullptr) continue;
    if (!is_constant && !list->is_array()) {
      cannot(child_path(part.path, keyword), "a list is expected");
      continue;
    }
    const auto values = is_constant ? std::span(list, 1)
                                    : std::span(list->get_array().data(), list->get_array().size());
    if (!can_list(values, child_path(part.path, keyword))) continue;
    const std::string choices = listed_choices(parts, *list, values);
    return choices.empty() ? std::nullopt : std::optional(choices);
  }

  const unsigned types = types_spoken_of(parts);
  if (types == kAllTypes && says_nothing(parts)) return "any";
  std::string choices;
  if (types & kNullType) add_choice(choices, "\"null\"");
  if (types & kBooleanType) add_choice(choices, "boolean");
  std::optional<std::string> choice;
  if ((types & kNumberTypes) && (choice = number(parts, !(types & kFractionType))))
    add_choice(choices, *choice);
  if ((types & kStringType) && (choice = string(parts))) add_choice(choices, *choice);
  if ((types & kArrayType) && (choice = array(parts))) add_choice(choices, *choice);
  if ((types & kObjectType) && (choice = object(parts))) add_choice(choices, *choice);
  return choices.empty() ? std::nullopt : std::optional(choices);
}

void SchemaWriter::check_keywords(const FlatSchema& flat) {
  for (const SchemaPart& part : flat.parts) {
    check_unevaluated(part, flat.parts);
    for (const std::string_view keyword : kUnsupported) {
      const json::value* value = find_keyword(part, keyword);
      if (value == nullptr) continue;
      const bool is_false = value->is_bool() && !value->get_bool();
      if (is_false && (keyword == "not" || keyword == "uniqueItems")) continue;
      if (keyword == "uniqueItems" && count_of(flat.parts, "maxItems", false).value_or(2) <= 1)
        continue;
      cannot(part.path, fmt::format("the keyword '{}' cannot be enforced", keyword));
    }
    const json::value* type = find_keyword(part, "type");
    if (type != nullptr && types_of(part) == kAllTypes &&
        !(type->is_array() && type->get_array().size() >= 6))
      cannot(child_path(part.path, "type"), json::serialize(*type) + " is no type");
  }
}

// What a schema leaves unevaluated is known when it encloses all that speaks of the value.
void SchemaWriter::check_unevaluated(const SchemaPart& part, const Parts& parts) {
  for (const auto& [keyword, kind] : kKinds) {
    if (!keyword.starts_with("unevaluated") || find_keyword(part, keyword) == nullptr) continue;
    const std::string inside = part.path.empty() ? "" : part.path + ".";
    for (const SchemaPart& other : parts) {
      const bool is_seen = other.path == part.path || other.path.starts_with(inside);
      if (is_seen || !(kinds_spoken_of(other) & kind)) continue;
      return cannot(part.path,
                    fmt::format("'{}' beside another schema cannot be enforced", keyword));
    }
  }
}

std::optional<std::string> SchemaWriter::group_choices(const FlatSchema& flat) {
  size_t num_combinations = 1;
  std::vector<const SchemaGroup*> groups;
  for (const SchemaGroup& group : flat.groups) {
    if (num_combinations * group.options.size() > kMaxCombinations && !groups.empty()) {
      cannot(group.path, "too many combinations of alternatives");
      continue;
    }
    if (group.exactly_one) check_one_of(group);
    num_combinations *= group.options.size();
    groups.push_back(&group);
  }
  std::string choices;
  for (size_t combination = 0; combination < num_combinations; ++combination) {
    Conjunction conjunction;
    for (const SchemaPart& part : flat.parts) conjunction.push_back({part.schema, part.path, true});
    size_t rest = combination;
    for (const SchemaGroup* group : groups) {
      conjunction.push_back(group->options[rest % group->options.size()]);
      rest /= group->options.size();
    }
    const auto rule = value_rule(conjunction);
    if (!rule) continue;
    add_choice(choices, *rule);
    place().alternatives.push_back(place_of(*rule));
  }
  return choices.empty() ? std::nullopt : std::optional(choices);
}

// Alternatives that list their values are compared by these, others each with each.
void SchemaWriter::check_one_of(const SchemaGroup& group) {
  const auto overlap = [&](size_t left, size_t right) {
    if (!may_both_hold(group.options[left], group.options[right])) return false;
    cannot(group.path, fmt::format("alternatives {} and {} of 'oneOf' may both hold, which cannot "
                                   "be excluded; 'anyOf' can be done",
                                   left, right));
    return true;
  };
  std::map<std::string, size_t> option_of;  // by value
  std::vector<bool> is_listed(group.options.size());
  for (size_t idx = 0; idx < group.options.size(); ++idx) {
    const auto values = listed_values(flatten({group.options[idx]}, root_));
    is_listed[idx] = values.has_value();
    if (!values) continue;
    for (const json::value* value : *values) {
      const size_t other = option_of.try_emplace(value_key(*value), idx).first->second;
      if (other != idx && overlap(other, idx)) return;
    }
  }
  for (size_t idx = 0; idx < group.options.size(); ++idx) {
    if (is_listed[idx]) continue;
    for (size_t other = 0; other < group.options.size(); ++other) {
      const bool is_new = is_listed[other] ? other != idx : other > idx;
      if (is_new && overlap(std::min(idx, other), std::max(idx, other))) return;
    }
  }
}

bool SchemaWriter::may_both_hold(const SchemaRef& left, const SchemaRef& right) {
  const bool are_apart = are_disjoint(left, right, root_, steps_left_);
  if (steps_left_ < 0) throw SchemaRefusal{"the schema is too large for a grammar"};
  return !are_apart;
}

SchemaVerdict SchemaWriter::checked(const json::value& value,
                                    const json::value& schema,
                                    const json::value* known) {
  SchemaVerdict verdict = check_schema(value, schema, root_, known);
  steps_left_ -= verdict.num_steps;
  if (steps_left_ < 0) throw SchemaRefusal{"the schema is too large for a grammar"};
  return verdict;
}

bool SchemaWriter::can_list(std::span<const json::value> values, const std::string& path) {
  size_t longest = 0;
  for (const json::value& value : values) {
    const size_t num_bytes = json::serialize(value).size();
    num_listed_bytes_ += num_bytes;
    longest = std::max(longest, num_bytes);
  }
  if (num_listed_bytes_ <= kMaxListedBytes && longest <= kMaxListedValueBytes) return true;
  cannot(path, fmt::format("listed values of more than {} bytes, {} in all, cannot be enforced",
                           kMaxListedValueBytes, kMaxListedBytes));
  return false;
}

// `values` are those of `list`, the argument of a const or enum.
std::string SchemaWriter::listed_choices(const Parts& parts,
                                         const json::value& list,
                                         std::span<const json::value> values) {
  std::string choices;
  for (const json::value& value : values) {
    if (!fits(value, parts, list)) continue;
    add_choice(choices, constant(value));
    note_listed(value);
  }
  return choices;
}

void SchemaWriter::note_listed(const json::value& value) {
  if (!value.is_string()) return;
  const int64_t length = num_code_points(value);
  StringLengths& lengths = place().lengths;
  const bool is_first = std::exchange(place().strings, SchemaPlace::Strings::kListed) !=
                        SchemaPlace::Strings::kListed;
  lengths.least = is_first ? length : std::min(lengths.least, length);
  lengths.most = is_first ? length : std::max(*lengths.most, length);
}

bool SchemaWriter::fits(const json::value& value, const Parts& parts, const json::value& list) {
  for (const SchemaPart& part : parts) {
    const SchemaVerdict verdict = checked(value, *part.schema, &list);
    if (verdict.violation) return false;
    if (!verdict.is_complete) cannot(part.path, "what stands beside the listed values");
  }
  return true;
}

int32_t SchemaWriter::place_of(const std::string& rule) const {
  const auto found = place_of_rule_.find(rule);
  return found != place_of_rule_.end() ? found->second : LengthPlanBuilder::kAnyValue;
}

std::optional<int64_t> SchemaWriter::count_of(const Parts& parts,
                                              std::string_view keyword,
                                              bool largest) {
  std::optional<int64_t> result;
  for (const SchemaPart& part : parts) {
    const json::value* value = find_keyword(part, keyword);
    if (value == nullptr) continue;
    const double count = value->is_number() ? value->to_number<double>() : -1;
    if (count < 0 || count != static_cast<double>(static_cast<int64_t>(std::min(count, 9e15)))) {
      cannot(child_path(part.path, keyword), "a whole number is expected");
      continue;
    }
    const auto whole = static_cast<int64_t>(count);
    result = !result ? whole : largest ? std::max(*result, whole) : std::min(*result, whole);
  }
  return result;
}

}  // namespace tandem
