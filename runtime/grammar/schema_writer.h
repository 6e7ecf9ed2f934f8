// Writes the rules of a JSON Schema: one rule a conjunction of schemas, so that recursive schemas
// become recursive rules.
#pragma once

#include <boost/json/value.hpp>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/length_plan.h"
#include "runtime/grammar/number_range.h"
#include "runtime/grammar/regex.h"
#include "runtime/grammar/schema_check.h"
#include "runtime/grammar/schema_parts.h"

namespace tandem {

// Thrown by SchemaWriter for what kExact refuses and for schemas too large; caught in
// json_schema_grammar().
struct SchemaRefusal {
  std::string message;
};

class SchemaWriter {
 public:
  SchemaWriter(const boost::json::value& root, SchemaPolicy policy);

  // Nothing when no value satisfies the schema.
  std::optional<SchemaGrammar> write();

 private:
  using Parts = std::vector<SchemaPart>;
  // Of looking at listed values and at alternatives of oneOf: 50 to 250 ms.
  static constexpr int64_t kMaxSteps = 2'000'000;

  // The name of the rule for a value; nothing when no value is possible.
  std::optional<std::string> value_rule(const Conjunction& conjunction);
  std::optional<std::string> value_choices(const Conjunction& conjunction);
  std::optional<std::string> group_choices(const FlatSchema& flat);
  std::string listed_choices(const Parts& parts,
                             const boost::json::value& list,
                             std::span<const boost::json::value> values);
  bool fits(const boost::json::value& value, const Parts& parts, const boost::json::value& list);
  bool can_list(std::span<const boost::json::value> values, const std::string& path);
  void note_listed(const boost::json::value& value);
  void check_keywords(const FlatSchema& flat);
  void check_unevaluated(const SchemaPart& part, const Parts& parts);
  void check_one_of(const SchemaGroup& group);
  bool may_both_hold(const SchemaRef& left, const SchemaRef& right);
  SchemaVerdict checked(const boost::json::value& value,
                        const boost::json::value& schema,
                        const boost::json::value* known);

  std::optional<std::string> number(const Parts& parts, bool integers_only);
  std::optional<std::string> integer(const DecimalRange& range,
                                     const std::vector<int64_t>& divisors,
                                     const std::string& path);
  std::optional<std::string> string(const Parts& parts);
  std::optional<std::string> pattern_rule(const Parts& parts,
                                          const std::string& body,
                                          const PatternLengths& pattern,
                                          const StringLengths& wanted);
  std::string key_rule(const Parts& parts, const StringLengths& wanted);
  std::optional<std::string> array(const Parts& parts);
  std::optional<std::string> array_of(const std::vector<std::string>& items,
                                      const std::optional<std::string>& rest,
                                      int64_t least,
                                      const std::optional<int64_t>& most);

  struct ObjectShape;
  class MemberRules;
  std::optional<std::string> object(const Parts& parts);
  bool add_properties(const Parts& parts, ObjectShape& shape);
  Conjunction property_schemas(const Parts& parts, std::string_view name);
  bool is_allowed_name(const Parts& parts, const std::string& name);
  void add_undeclared(const Parts& parts, ObjectShape& shape);
  void add_patterns(const Parts& parts, bool has_names, ObjectShape& shape);
  void limit_members(const Parts& parts, ObjectShape& shape);
  std::optional<std::string> undeclared_key(const std::string& path, const ObjectShape& shape);

  // In kExact mode throws; else notes it.
  void cannot(const std::string& path, std::string_view what);
  // A whole number >= 0 of `keyword`, whatever its form; the largest (or least) of all parts.
  std::optional<int64_t> count_of(const Parts& parts, std::string_view keyword, bool largest);

  // The value being written, in the plan of lengths; and the place of a rule's values.
  SchemaPlace& place() { return places_[current_place_]; }
  [[nodiscard]] int32_t place_of(const std::string& rule) const;

  std::string add_rule(const std::string& body);
  std::string new_rule_name();
  void set_rule(const std::string& name, const std::string& body);

  const boost::json::value& root_;
  SchemaPolicy policy_;
  SchemaGrammar grammar_;
  std::map<std::string, std::optional<std::string>> rule_of_;  // by conjunction
  std::map<std::string, std::string> name_of_body_;            // equal bodies share a rule
  LengthPlanBuilder places_;
  std::map<std::string, int32_t> place_of_rule_;  // of those that value_rule() wrote
  int32_t current_place_ = LengthPlanBuilder::kAnyValue;
  bool is_key_ = false;  // a property's name is being written, which no plan knows
  int num_rules_ = 0;
  size_t num_listed_bytes_ = 0;  // of const and enum
  int64_t steps_left_ = kMaxSteps;
  size_t num_other_name_characters_ = 0;  // of names that undeclared ones differ from
  int depth_ = 0;
};

// Rules that every schema grammar may refer to: any string number integer boolean character ...
std::string shared_json_rules();

}  // namespace tandem
