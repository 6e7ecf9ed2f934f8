// A conjunction of JSON Schemas, taken apart: $ref followed, allOf flattened, anyOf and oneOf as
// groups to choose from.
#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem {

// One schema that a value must satisfy. Points into the document.
struct SchemaRef {
  const boost::json::value* schema = nullptr;
  std::string path;      // where it stands, for messages: "properties.city"
  bool is_flat = false;  // stands for its own keywords only: what it refers to, and what was
                         // chosen of its groups, stands beside it
};
using Conjunction = std::vector<SchemaRef>;  // all of them hold

struct SchemaPart {
  const boost::json::value* schema = nullptr;  // an object
  std::string path;
};

struct SchemaGroup {
  std::vector<SchemaRef> options;
  std::string path;          // ends with the keyword
  bool exactly_one = false;  // oneOf
};

struct FlatSchema {
  std::vector<SchemaPart> parts;
  std::vector<SchemaGroup> groups;
  bool is_false = false;              // no value at all
  bool is_too_deep = false;           // some references were not followed
  std::vector<std::string> problems;  // "$.items: $ref" that points nowhere, ...
};

// `root` is the document that references are looked up in.
FlatSchema flatten(const Conjunction& conjunction, const boost::json::value& root);

// "#", "#/$defs/x"; nullptr when it is another form or points nowhere.
const boost::json::value* find_reference(std::string_view reference,
                                         const boost::json::value& root);

// No value satisfies both, as far as types, const and enum tell, also of required properties. Takes
// what it looks at from `steps_left`; not known when that falls below 0.
bool are_disjoint(const SchemaRef& left,
                  const SchemaRef& right,
                  const boost::json::value& root,
                  int64_t& steps_left);

// The values that a conjunction allows, where const or enum lists them.
std::optional<std::vector<const boost::json::value*>> listed_values(const FlatSchema& flat);

// Bits of the types of a part's `type`; all bits without one or with one that nobody knows.
enum TypeBit : unsigned {
  kNullType = 1,
  kBooleanType = 2,
  kIntegerType = 4,
  kFractionType = 8,  // numbers that are no integers
  kStringType = 16,
  kArrayType = 32,
  kObjectType = 64,
};
inline constexpr unsigned kNumberTypes = kIntegerType | kFractionType;
inline constexpr unsigned kAllTypes = 127;
unsigned types_of(const SchemaPart& part);
unsigned type_of(const boost::json::value& value);

const boost::json::value* find_keyword(const SchemaPart& part, std::string_view keyword);
std::string child_path(std::string_view path, std::string_view child);

// JSON values as schemas compare them: 1 equals 1.0, the order of members says nothing. Equal
// values have equal keys, others do not.
std::string value_key(const boost::json::value& value);
bool equal_values(const boost::json::value& left, const boost::json::value& right);

}  // namespace tandem
