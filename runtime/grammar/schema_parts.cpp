#include "runtime/grammar/schema_parts.h"

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <cmath>
#include <map>
#include <set>

namespace tandem {
namespace {

namespace json = boost::json;

constexpr int kMaxDisjointDepth = 4;
constexpr int kMaxReferenceDepth = 256;  // of schemas that stand for others: $ref, allOf

std::string_view as_view(const json::string& text) { return {text.data(), text.size()}; }

class Flattener {
 public:
  explicit Flattener(const json::value& root) : root_(root) {}

  void add(const SchemaRef& ref) {
    if (ref.schema->is_bool()) {
      flat_.is_false = flat_.is_false || !ref.schema->get_bool();
      return;
    }
    if (!ref.schema->is_object()) return flat_.problems.push_back(ref.path);
    if (!seen_.insert(ref.schema).second) return;
    const SchemaPart part{ref.schema, ref.path};
    flat_.parts.push_back(part);
    if (ref.is_flat) return;
    if (depth_ == kMaxReferenceDepth) {
      flat_.is_too_deep = true;
      return;
    }
    ++depth_;
    add_reference(part);
    add_all_of(part);
    --depth_;
    add_group(part, "anyOf");
    add_group(part, "oneOf");
  }

  FlatSchema take() { return std::move(flat_); }

 private:
  void add_reference(const SchemaPart& part) {
    const json::value* reference = find_keyword(part, "$ref");
    if (reference == nullptr) return;
    const json::string* text = reference->if_string();
    const json::value* target = text ? find_reference(as_view(*text), root_) : nullptr;
    if (target == nullptr) return flat_.problems.push_back(child_path(part.path, "$ref"));
    add({target, child_path(part.path, "$ref"), false});
  }

  void add_all_of(const SchemaPart& part) {
    const json::value* all = find_keyword(part, "allOf");
    if (all == nullptr) return;
    const std::string path = child_path(part.path, "allOf");
    if (!all->is_array()) return flat_.problems.push_back(path);
    int idx = 0;
    for (const json::value& schema : all->get_array())
      add({&schema, child_path(path, std::to_string(idx++)), false});
  }

  void add_group(const SchemaPart& part, std::string_view keyword) {
    const json::value* options = find_keyword(part, keyword);
    if (options == nullptr) return;
    SchemaGroup group;
    group.path = child_path(part.path, keyword);
    group.exactly_one = keyword == "oneOf";
    if (!options->is_array() || options->get_array().empty())
      return flat_.problems.push_back(group.path);
    int idx = 0;
    for (const json::value& schema : options->get_array())
      group.options.push_back({&schema, child_path(group.path, std::to_string(idx++)), false});
    flat_.groups.push_back(std::move(group));
  }

  const json::value& root_;
  FlatSchema flat_;
  int depth_ = 0;
  std::set<const json::value*> seen_;
};

// Percent signs and JSON Pointer's own escapes.
std::string decode_pointer_token(std::string_view token) {
  const auto hex = [](char c) {
    return c >= '0' && c <= '9'                     ? c - '0'
           : (c | 0x20) >= 'a' && (c | 0x20) <= 'f' ? (c | 0x20) - 'a' + 10
                                                    : -1;
  };
  std::string text;
  for (size_t idx = 0; idx < token.size(); ++idx) {
    if (token[idx] == '%' && idx + 2 < token.size() && hex(token[idx + 1]) >= 0 &&
        hex(token[idx + 2]) >= 0) {
      text += static_cast<char>(hex(token[idx + 1]) * 16 + hex(token[idx + 2]));
      idx += 2;
    } else {
      text += token[idx];
    }
  }
  std::string decoded;
  for (size_t idx = 0; idx < text.size(); ++idx) {
    if (text[idx] == '~' && idx + 1 < text.size()) {
      decoded += text[++idx] == '1' ? '/' : '~';
    } else {
      decoded += text[idx];
    }
  }
  return decoded;
}

void append_value_key(std::string& key, const json::value& value) {
  constexpr double kWholeFrom = -9.2e18, kWholeTo = 9.2e18;
  if (const json::array* items = value.if_array()) {
    key += '[';
    for (const json::value& item : *items) append_value_key(key, item);
    key += ']';
  } else if (const json::object* members = value.if_object()) {
    std::map<std::string_view, const json::value*> sorted;
    for (const auto& member : *members)
      sorted.emplace(std::string_view(member.key().data(), member.key().size()), &member.value());
    key += '{';
    for (const auto& [name, member] : sorted) {
      key += json::serialize(json::value(name));
      append_value_key(key, *member);
    }
    key += '}';
  } else if (value.is_double() && std::trunc(value.get_double()) == value.get_double() &&
             value.get_double() > kWholeFrom && value.get_double() < kWholeTo) {
    key += std::to_string(static_cast<int64_t>(value.get_double())) + ',';
  } else {
    key += json::serialize(value) + ',';
  }
}

unsigned types_of(const FlatSchema& flat) {
  unsigned types = kAllTypes;
  for (const SchemaPart& part : flat.parts) types &= tandem::types_of(part);
  if (const auto listed = listed_values(flat)) {
    unsigned listed_types = 0;
    for (const json::value* value : *listed) listed_types |= type_of(*value);
    types &= listed_types;
  }
  return types;
}

// Schemas of a property that every object of `flat` has.
Conjunction required_property(const FlatSchema& flat, std::string_view name, int64_t& steps_left) {
  Conjunction schemas;
  bool is_required = false;
  for (const SchemaPart& part : flat.parts) {
    const json::value* required = find_keyword(part, "required");
    if (required != nullptr && required->is_array()) {
      steps_left -= std::ssize(required->get_array());
      for (const json::value& item : required->get_array())
        is_required = is_required || (item.is_string() && as_view(item.get_string()) == name);
    }
    const json::value* properties = find_keyword(part, "properties");
    if (properties == nullptr || !properties->is_object()) continue;
    if (const json::value* schema = properties->get_object().if_contains(name))
      schemas.push_back({schema, "", false});
  }
  return is_required ? schemas : Conjunction();
}

bool are_disjoint_at(const Conjunction& left,
                     const Conjunction& right,
                     const json::value& root,
                     int64_t& steps_left,
                     int depth) {
  const FlatSchema flat_left = flatten(left, root);
  const FlatSchema flat_right = flatten(right, root);
  steps_left -= 1 + std::ssize(flat_left.parts) + std::ssize(flat_right.parts);
  if (flat_left.is_false || flat_right.is_false) return true;
  const unsigned common = types_of(flat_left) & types_of(flat_right);
  // Integers are numbers: a type that is there on one side only does not separate the other.
  if (common == 0) return true;
  const auto values_left = listed_values(flat_left);
  const auto values_right = listed_values(flat_right);
  if (values_left && values_right) {
    steps_left -= std::ssize(*values_left) + std::ssize(*values_right);
    std::set<std::string> keys;
    for (const json::value* value : *values_left) keys.insert(value_key(*value));
    return std::none_of(values_right->begin(), values_right->end(),
                        [&](const json::value* value) { return keys.contains(value_key(*value)); });
  }
  if (common != kObjectType || depth >= kMaxDisjointDepth) return false;
  for (const SchemaPart& part : flat_left.parts) {
    const json::value* properties = find_keyword(part, "properties");
    if (properties == nullptr || !properties->is_object()) continue;
    for (const auto& property : properties->get_object()) {
      const std::string_view name(property.key().data(), property.key().size());
      const Conjunction in_left = required_property(flat_left, name, steps_left);
      const Conjunction in_right = required_property(flat_right, name, steps_left);
      if (--steps_left < 0) return false;
      if (!in_left.empty() && !in_right.empty() &&
          are_disjoint_at(in_left, in_right, root, steps_left, depth + 1))
        return true;
    }
  }
  return false;
}

}  // namespace

FlatSchema flatten(const Conjunction& conjunction, const json::value& root) {
  Flattener flattener(root);
  for (const SchemaRef& ref : conjunction) flattener.add(ref);
  return flattener.take();
}

std::optional<std::vector<const json::value*>> listed_values(const FlatSchema& flat) {
  for (const SchemaPart& part : flat.parts) {
    if (const json::value* value = find_keyword(part, "const")) return std::vector{value};
    const json::value* values = find_keyword(part, "enum");
    if (values == nullptr || !values->is_array()) continue;
    std::vector<const json::value*> listed;
    for (const json::value& value : values->get_array()) listed.push_back(&value);
    return listed;
  }
  return std::nullopt;
}

const json::value* find_reference(std::string_view reference, const json::value& root) {
  if (!reference.starts_with('#')) return nullptr;
  std::string_view rest = reference.substr(1);
  const json::value* current = &root;
  while (!rest.empty()) {
    if (rest[0] != '/') return nullptr;
    rest.remove_prefix(1);
    const std::string token = decode_pointer_token(rest.substr(0, rest.find('/')));
    rest.remove_prefix(std::min(rest.find('/'), rest.size()));
    if (const json::object* object = current->if_object()) {
      current = object->if_contains(token);
    } else if (const json::array* array = current->if_array()) {
      const bool is_index = !token.empty() && token.size() < 7 &&
                            token.find_first_not_of("0123456789") == std::string::npos;
      const size_t idx = is_index ? std::stoul(token) : array->size();
      current = idx < array->size() ? &(*array)[idx] : nullptr;
    } else {
      current = nullptr;
    }
    if (current == nullptr) return nullptr;
  }
  return current;
}

bool are_disjoint(const SchemaRef& left,
                  const SchemaRef& right,
                  const json::value& root,
                  int64_t& steps_left) {
  return are_disjoint_at({left}, {right}, root, steps_left, 0);
}

unsigned types_of(const SchemaPart& part) {
  const json::value* type = find_keyword(part, "type");
  if (type == nullptr) return kAllTypes;
  const auto bits = [](const json::value& name) -> unsigned {
    const json::string* text = name.if_string();
    if (text == nullptr) return kAllTypes;
    if (*text == "null") return kNullType;
    if (*text == "boolean") return kBooleanType;
    if (*text == "integer") return kIntegerType;
    if (*text == "number") return kNumberTypes;
    if (*text == "string") return kStringType;
    if (*text == "array") return kArrayType;
    if (*text == "object") return kObjectType;
    return kAllTypes;
  };
  if (!type->is_array()) return bits(*type);
  unsigned types = 0;
  for (const json::value& name : type->get_array()) types |= bits(name);
  return types;
}

unsigned type_of(const json::value& value) {
  switch (value.kind()) {
    case json::kind::null:
      return kNullType;
    case json::kind::bool_:
      return kBooleanType;
    case json::kind::int64:
    case json::kind::uint64:
      return kIntegerType;
    case json::kind::double_:
      return std::trunc(value.get_double()) == value.get_double() ? kIntegerType : kFractionType;
    case json::kind::string:
      return kStringType;
    case json::kind::array:
      return kArrayType;
    default:
      return kObjectType;
  }
}

const json::value* find_keyword(const SchemaPart& part, std::string_view keyword) {
  return part.schema->get_object().if_contains(keyword);
}

std::string child_path(std::string_view path, std::string_view child) {
  return path.empty() ? std::string(child) : std::string(path) + "." + std::string(child);
}

std::string value_key(const json::value& value) {
  std::string key;
  append_value_key(key, value);
  return key;
}

bool equal_values(const json::value& left, const json::value& right) {
  if (type_of(left) != type_of(right)) return false;
  const bool is_plain =
      left.is_string() || left.is_bool() || left.is_null() || (left.is_int64() && right.is_int64());
  return is_plain ? left == right : value_key(left) == value_key(right);
}

}  // namespace tandem
