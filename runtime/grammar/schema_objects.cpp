// Objects of a schema: declared members in their order, undeclared ones behind them.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <set>
#include <span>

#include "runtime/grammar/ebnf.h"
#include "runtime/grammar/regex.h"
#include "runtime/grammar/schema_writer.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr int64_t kMaxCountedMembers = 64;

constexpr size_t kMaxMembers = 1024;

// Characters of names that undeclared ones of a schema must differ from: each is a state that takes
// some 50 ms to compile on K2's vocabulary, and a group inside the one before it.
constexpr size_t kMaxOtherNameCharacters = 512;

std::string_view as_view(const json::string& text) { return {text.data(), text.size()}; }

bool allows_any_string(const SchemaPart& part) {
  constexpr std::array<std::string_view, 5> kSayNothing = {"type", "title", "description",
                                                           "$comment", "examples"};
  for (const auto& member : part.schema->get_object()) {
    if (std::find(kSayNothing.begin(), kSayNothing.end(), member.key()) == kSayNothing.end())
      return false;
  }
  return (types_of(part) & kStringType) != 0;
}

bool any_has(const std::vector<SchemaPart>& parts, std::string_view keyword) {
  return std::any_of(parts.begin(), parts.end(), [&](const SchemaPart& part) {
    return find_keyword(part, keyword) != nullptr;
  });
}

// What the parts say of members that none of them evaluates.
Conjunction unevaluated_schemas(const std::vector<SchemaPart>& parts) {
  Conjunction schemas;
  for (const SchemaPart& part : parts) {
    if (const json::value* schema = find_keyword(part, "unevaluatedProperties"))
      schemas.push_back({schema, child_path(part.path, "unevaluatedProperties"), false});
  }
  return schemas;
}

// Strings without escapes that are none of `names` (sorted), all of which agree before `depth`.
std::string key_other_than(std::span<const std::u32string> names, size_t depth) {
  CodePointSet other = plain_json_characters();
  std::string choices;
  const bool ends_here = names.front().size() == depth;  // the shortest is the first
  if (ends_here) names = names.subspan(1);
  while (!names.empty()) {
    const char32_t character = names.front()[depth];
    const auto is_other = [&](const std::u32string& name) { return name[depth] != character; };
    const auto end = std::find_if(names.begin(), names.end(), is_other);
    const auto with_character = names.first(static_cast<size_t>(end - names.begin()));
    names = names.subspan(with_character.size());
    const CodePointSet one{{character, character}};
    if (other.intersection(one).empty()) continue;  // is escaped: no such key comes about
    other = other.without(one);
    choices += '|' + regex_class(one) + key_other_than(with_character, depth + 1);
  }
  return fmt::format("({}{}{}*{})", ends_here ? "" : "|", regex_class(other),
                     regex_class(plain_json_characters()), choices);
}

}  // namespace

struct SchemaWriter::ObjectShape {
  struct Property {
    std::string name;
    std::string rule;
    bool is_required = false;
  };
  std::vector<Property> properties;
  std::vector<std::string> known_names;   // names that undeclared members cannot have
  std::optional<std::string> undeclared;  // rule of a member that is none of them
  std::optional<std::string> undeclared_value;
  int64_t least = 0;  // members
  std::optional<int64_t> most;
};

// The rules of the members of one object. Few properties may come in any order, which is how models
// write them: a rule for every set of those that are left. Many come in the order of the schema: a
// rule for every first one that may still come.
class SchemaWriter::MemberRules {
 public:
  MemberRules(SchemaWriter& writer, const ObjectShape& shape)
      : writer_(writer), shape_(shape), num_properties_(shape.properties.size()) {}

  // Nothing when no object satisfies the schema.
  std::optional<std::string> write() {
    const bool is_small = num_properties_ <= kMaxAnyOrder;
    return is_small ? any_order((uint64_t{1} << num_properties_) - 1, 0) : in_order(0, 0);
  }

 private:
  static constexpr size_t kMaxAnyOrder = 5;

  // `left`: one bit a property.
  std::optional<std::string> any_order(uint64_t left, int64_t num_members) {
    return remembered(left, num_members, [&](std::string& choices) {
      bool may_end = true;
      for (size_t idx = 0; idx < num_properties_; ++idx) {
        if (!(left >> idx & 1)) continue;
        may_end = may_end && !shape_.properties[idx].is_required;
        if (is_full(num_members)) continue;
        add_choice(choices, member(idx, num_members),
                   any_order(left & ~(uint64_t{1} << idx), one_more(num_members)));
      }
      if (may_end) add_choice(choices, "", undeclared(num_members));
    });
  }

  std::optional<std::string> in_order(size_t idx, int64_t num_members) {
    return remembered(idx, num_members, [&](std::string& choices) {
      if (idx == num_properties_) return add_choice(choices, "", undeclared(num_members));
      if (!is_full(num_members)) {
        add_choice(choices, member(idx, num_members), in_order(idx + 1, one_more(num_members)));
      }
      if (!shape_.properties[idx].is_required)
        add_choice(choices, "", in_order(idx + 1, num_members));
    });
  }

  template <typename Write>
  std::optional<std::string> remembered(uint64_t state, int64_t num_members, const Write& write) {
    const auto key = std::pair(state, num_members);
    const auto found = rules_.find(key);
    if (found != rules_.end()) return found->second;
    std::string choices;
    write(choices);
    std::optional<std::string> rule;
    if (!choices.empty()) rule = writer_.add_rule(choices);
    return rules_[key] = rule;
  }

  static void add_choice(std::string& choices,
                         const std::string& first,
                         const std::optional<std::string>& behind) {
    if (!behind) return;
    if (!choices.empty()) choices += " | ";
    choices += first;
    choices += *behind;
  }

  [[nodiscard]] bool is_full(int64_t num_members) const {
    return shape_.most && num_members >= *shape_.most;
  }

  // Counted as far as it matters.
  [[nodiscard]] int64_t one_more(int64_t num_members) const {
    return shape_.most ? num_members + 1
                       : std::min(num_members + 1, std::max<int64_t>(shape_.least, 1));
  }

  [[nodiscard]] std::string member(size_t idx, int64_t num_members) const {
    const ObjectShape::Property& property = shape_.properties[idx];
    return fmt::format("{}{} colon {} ", num_members > 0 ? "separator " : "",
                       ebnf_literal('"' + json_string_body(property.name) + '"'), property.rule);
  }

  // What may come behind the declared ones.
  [[nodiscard]] std::optional<std::string> undeclared(int64_t num_members) const {
    const int64_t needed = std::max<int64_t>(shape_.least - num_members, 0);
    if (!shape_.undeclared || is_full(num_members))
      return needed == 0 ? std::optional<std::string>("\"\"") : std::nullopt;
    const bool is_first = num_members == 0;
    const std::string most =
        shape_.most ? std::to_string(*shape_.most - num_members - (is_first ? 1 : 0)) : "";
    const int64_t least = std::max<int64_t>(needed - (is_first ? 1 : 0), 0);
    const std::string more =
        fmt::format("(separator {}){{{},{}}}", *shape_.undeclared, least, most);
    if (!is_first) return more;
    const std::string some = *shape_.undeclared + " " + more;
    return needed == 0 ? "\"\" | " + some : some;
  }

  SchemaWriter& writer_;
  const ObjectShape& shape_;
  size_t num_properties_;
  std::map<std::pair<uint64_t, int64_t>, std::optional<std::string>> rules_;
};

std::optional<std::string> SchemaWriter::object(const Parts& parts) {
  ObjectShape shape;
  if (!add_properties(parts, shape)) return std::nullopt;
  add_undeclared(parts, shape);
  limit_members(parts, shape);
  for (const auto& [name, rule, is_required] : shape.properties)
    place().members[json_string_body(name)] = place_of(rule);
  if (shape.undeclared_value) place().other_members = place_of(*shape.undeclared_value);
  const bool is_any =
      shape.properties.empty() && shape.undeclared == "member" && shape.least == 0 && !shape.most;
  if (is_any) return "object";
  const auto members = MemberRules(*this, shape).write();
  if (!members) return std::nullopt;
  return add_rule("\"{\" space " + *members + " space \"}\"");
}

// False when a required property can have no value.
bool SchemaWriter::add_properties(const Parts& parts, ObjectShape& shape) {
  std::vector<std::string> names;
  std::set<std::string> known, required;
  for (const SchemaPart& part : parts) {
    const json::value* properties = find_keyword(part, "properties");
    if (properties == nullptr) continue;
    if (!properties->is_object()) {
      cannot(child_path(part.path, "properties"), "an object is expected");
      continue;
    }
    for (const auto& property : properties->get_object()) {
      std::string name(property.key().data(), property.key().size());
      if (known.insert(name).second) names.push_back(std::move(name));
    }
  }
  for (const SchemaPart& part : parts) {
    const json::value* listed = find_keyword(part, "required");
    if (listed == nullptr) continue;
    // Draft 3 has `required: true` in the property.
    if (!listed->is_array()) {
      cannot(child_path(part.path, "required"), "a list is expected");
      continue;
    }
    for (const json::value& item : listed->get_array()) {
      if (!item.is_string()) {
        cannot(child_path(part.path, "required"), "a list of strings is expected");
        continue;
      }
      std::string name(as_view(item.get_string()));
      required.insert(name);
      if (known.insert(name).second) names.push_back(std::move(name));
    }
  }
  if (names.size() > kMaxMembers) throw SchemaRefusal{"an object with too many properties"};
  for (const std::string& name : names) {
    const Conjunction schemas = property_schemas(parts, name);
    std::optional<std::string> rule;
    if (is_allowed_name(parts, name)) rule = schemas.empty() ? "any" : value_rule(schemas);
    const bool is_required = required.contains(name);
    if (!rule && is_required) return false;
    if (rule) shape.properties.push_back({name, *rule, is_required});
    shape.known_names.push_back(name);
  }
  return true;
}

bool SchemaWriter::is_allowed_name(const Parts& parts, const std::string& name) {
  for (const SchemaPart& part : parts) {
    const json::value* names = find_keyword(part, "propertyNames");
    if (names == nullptr) continue;
    const SchemaVerdict verdict = checked(json::value(name), *names, nullptr);
    if (verdict.violation) return false;
    if (!verdict.is_complete) cannot(child_path(part.path, "propertyNames"), "cannot be enforced");
  }
  return true;
}

// additionalProperties speaks of what stands in no `properties` of its own schema.
Conjunction SchemaWriter::property_schemas(const Parts& parts, std::string_view name) {
  Conjunction schemas;
  for (const SchemaPart& part : parts) {
    const json::value* properties = find_keyword(part, "properties");
    const json::value* own = properties != nullptr && properties->is_object()
                                 ? properties->get_object().if_contains(name)
                                 : nullptr;
    if (own != nullptr) {
      schemas.push_back({own, child_path(child_path(part.path, "properties"), name), false});
      continue;
    }
    const json::value* additional = find_keyword(part, "additionalProperties");
    if (additional != nullptr && find_keyword(part, "patternProperties") == nullptr)
      schemas.push_back({additional, child_path(part.path, "additionalProperties"), false});
  }
  if (schemas.empty() && !any_has(parts, "additionalProperties")) return unevaluated_schemas(parts);
  return schemas;
}

void SchemaWriter::add_undeclared(const Parts& parts, ObjectShape& shape) {
  bool is_closed = false, is_open = true, has_patterns = false;
  Conjunction values, names;
  for (const SchemaPart& part : parts) {
    if (find_keyword(part, "properties") != nullptr) is_open = false;
    has_patterns = has_patterns || find_keyword(part, "patternProperties") != nullptr;
  }
  for (const SchemaPart& part : parts) {
    if (const json::value* additional = find_keyword(part, "additionalProperties")) {
      const bool is_false = additional->is_bool() && !additional->get_bool();
      is_closed = is_closed || is_false;
      is_open = true;
      values.push_back({additional, child_path(part.path, "additionalProperties"), false});
    }
    if (const json::value* name = find_keyword(part, "propertyNames")) {
      const bool is_plain = name->is_object() && allows_any_string({name, ""});
      const bool is_true = name->is_bool() && name->get_bool();
      if (!is_plain && !is_true)
        names.push_back({name, child_path(part.path, "propertyNames"), false});
    }
  }
  if (!any_has(parts, "additionalProperties")) values = unevaluated_schemas(parts);
  if (has_patterns) return add_patterns(parts, !names.empty(), shape);
  if (is_closed || !is_open) return;
  const auto value = values.empty() ? std::optional<std::string>("any") : value_rule(values);
  if (!value) return;
  shape.undeclared_value = value;
  if (names.empty()) {
    if (shape.known_names.empty() && *value == "any") {
      shape.undeclared = "member";
    } else if (const auto key = undeclared_key(parts.front().path, shape)) {
      shape.undeclared = add_rule(*key + " colon " + *value);
    }
    return;
  }
  if (!shape.known_names.empty()) {
    return cannot(parts.front().path, "'propertyNames' beside 'properties' cannot be enforced");
  }
  static const json::value kAnyString = {{"type", "string"}};
  names.push_back({&kAnyString, "", false});
  is_key_ = true;
  const auto name = value_rule(names);
  is_key_ = false;
  if (name) shape.undeclared = add_rule(*name + " colon " + *value);
}

// Only properties whose names match the one pattern there is: the others cannot be told.
void SchemaWriter::add_patterns(const Parts& parts, bool has_names, ObjectShape& shape) {
  if (has_names || !shape.known_names.empty()) {
    return cannot(parts.front().path,
                  "'patternProperties' beside 'properties', 'required' or 'propertyNames' cannot "
                  "be enforced");
  }
  const json::value* only = nullptr;
  for (const SchemaPart& part : parts) {
    const json::value* patterns = find_keyword(part, "patternProperties");
    if (patterns == nullptr) {
      if (find_keyword(part, "additionalProperties") == nullptr) continue;
      return cannot(part.path, "'patternProperties' beside another schema cannot be enforced");
    }
    const std::string path = child_path(part.path, "patternProperties");
    if (only != nullptr || !patterns->is_object() || patterns->get_object().size() != 1)
      return cannot(path, "more than one pattern cannot be enforced");
    only = patterns;
    const auto& [pattern, schema] = *patterns->get_object().begin();
    const auto key = rewrite_regex({pattern.data(), pattern.size()}, RegexUse::kInsideJsonString);
    if (!key) return cannot(path, key.error().message + " cannot be enforced");
    const auto value = value_rule({{&schema, path, false}});
    shape.undeclared_value = value;
    if (value)
      shape.undeclared = add_rule(ebnf_regex(fmt::format("\"{}\"", *key)) + " colon " + *value);
  }
}

void SchemaWriter::limit_members(const Parts& parts, ObjectShape& shape) {
  const auto num_required =
      std::count_if(shape.properties.begin(), shape.properties.end(),
                    [](const auto& property) { return property.is_required; });
  shape.least = count_of(parts, "minProperties", true).value_or(0);
  shape.most = count_of(parts, "maxProperties", false);
  const auto num_properties = static_cast<int64_t>(shape.properties.size());
  if (!shape.undeclared && shape.most && *shape.most >= num_properties) shape.most = std::nullopt;
  if (shape.least <= num_required) shape.least = 0;
  if (shape.undeclared && shape.least > std::max<int64_t>(num_required + 1, 1)) {
    // Undeclared names may come twice and count once.
    cannot(parts.front().path, "'minProperties' of undeclared properties cannot be enforced");
  }
  if (shape.least > kMaxCountedMembers || shape.most.value_or(0) > kMaxCountedMembers) {
    cannot(parts.front().path,
           fmt::format("numbers of properties above {} cannot be enforced", kMaxCountedMembers));
    shape.least = 0;
    shape.most = std::nullopt;
  }
}

// Nothing where telling undeclared names from the declared ones takes too much.
std::optional<std::string> SchemaWriter::undeclared_key(const std::string& path,
                                                        const ObjectShape& shape) {
  if (shape.known_names.empty()) return "string";
  std::vector<std::u32string> names;
  for (const std::string& name : shape.known_names) {
    names.push_back(code_points(name));
    num_other_name_characters_ += names.back().size();
  }
  if (num_other_name_characters_ > kMaxOtherNameCharacters) {
    cannot(path, fmt::format("undeclared properties beside declared names of more than {} "
                             "characters in all cannot be enforced",
                             kMaxOtherNameCharacters));
    return std::nullopt;
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return ebnf_regex(fmt::format("\"{}\"", key_other_than(names, 0)));
}

}  // namespace tandem
