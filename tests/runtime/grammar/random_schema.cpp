#include "tests/runtime/grammar/random_schema.h"

#include <boost/json/object.hpp>
#include <string>

namespace tandem::tests {
namespace {

namespace json = boost::json;

class Generator {
 public:
  explicit Generator(std::mt19937_64& random) : random_(random) {}

  json::value object(int depth) {
    json::object schema = {{"type", "object"}};
    json::object properties;
    json::array required;
    const int num_properties = pick(depth == 0 ? 8 : 4);
    for (int idx = 0; idx < num_properties; ++idx) {
      const std::string name = property_name(idx);
      properties[name] = value(depth + 1);
      if (chance(2)) required.push_back(json::string(name));
    }
    const auto num_required = static_cast<int64_t>(required.size());
    if (num_properties > 0) schema["properties"] = properties;
    if (num_required > 0) schema["required"] = required;
    switch (pick(6)) {
      case 0:
        schema["additionalProperties"] = false;
        break;
      case 1:
        schema["additionalProperties"] = {{"type", "integer"}};
        break;
      case 2:
        if (num_properties == 0) {
          schema["additionalProperties"] = {{"type", "boolean"}};
          schema["propertyNames"] = {{"pattern", "^[a-z]{1,5}$"}};
        }
        break;
      case 3:
        if (num_properties == 0) schema["patternProperties"] = {{"^x_", {{"type", "null"}}}};
        break;
      case 4:
        schema["maxProperties"] = num_required + 1;
        break;
      default:
        if (num_properties > 1) schema["minProperties"] = 1;
        break;
    }
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema";
    return schema;
  }

 private:
  int pick(int num) { return static_cast<int>(random_() % static_cast<uint64_t>(num)); }
  bool chance(int one_of) { return pick(one_of) == 0; }

  std::string property_name(int idx) {
    static const char* const kNames[] = {"a", "ab", "x y", "\xC3\xA9t\xC3\xA9", "q\"uote", "path"};
    return std::string(kNames[pick(6)]) + std::to_string(idx);
  }

  json::value value(int depth) {
    switch (pick(depth < 3 ? 12 : 8)) {
      case 0:
        return integer();
      case 1:
        return number();
      case 2:
        return string();
      case 3:
        return {{"enum", {"red", "gr\xC3\xBCn", 3, nullptr, true}}};
      case 4:
        return {{"type", "boolean"}, {"default", false}};
      case 5:
        return {{"const", {{"kind", "x"}, {"n", {1, 2}}}}};
      case 6:
        return {{"type", {"string", "null"}}, {"maxLength", 5}};
      case 7:
        return string();
      case 8:
        return array(depth);
      case 9:
        return object(depth);
      case 10:
        return {{"anyOf", json::array{integer(), object(depth), {{"type", "null"}}}}};
      default:
        return {{"allOf", json::array{{{"type", "integer"}, {"minimum", 5}}, {{"maximum", 700}}}}};
    }
  }

  json::value integer() {
    json::object schema = {{"type", "integer"}};
    const int64_t low = pick(2000) - 1000;
    if (chance(2)) schema["minimum"] = low;
    if (chance(2)) schema["maximum"] = low + pick(5000);
    if (chance(3)) schema["exclusiveMinimum"] = low - pick(3);
    if (chance(4))
      return {{"type", "integer"}, {"minimum", 0}, {"maximum", 900}, {"multipleOf", 7}};
    return schema;
  }

  json::value number() {
    json::object schema = {{"type", "number"}};
    const double low = (pick(200'000) - 100'000) / 1000.0;
    if (chance(2)) schema[chance(2) ? "minimum" : "exclusiveMinimum"] = low;
    if (chance(2)) schema[chance(2) ? "maximum" : "exclusiveMaximum"] = low + pick(1000) / 8.0 + 1;
    if (chance(4)) schema["multipleOf"] = 0.01;
    return schema;
  }

  json::value string() {
    switch (pick(9)) {
      case 0:
        return {{"type", "string"}, {"pattern", "^[A-Z][a-z-]{2,8}(\\.txt)?$"}};
      case 1:
        return {{"type", "string"}, {"pattern", "\\d+[^x]"}};
      case 2:
        return {{"type", "string"}, {"minLength", pick(30)}, {"maxLength", 30 + pick(90)}};
      case 3: {
        static const char* const kFormats[] = {"date", "uuid", "email", "ipv4", "uri", "date-time"};
        return {{"type", "string"}, {"format", kFormats[pick(6)]}};
      }
      case 4:
        return {{"type", "string"}, {"pattern", "^(a|b\"|\\\\|\\n|\xC3\xA9)+$"}};
      case 5:
        return {{"type", "string"},
                {"pattern", "^id_[a-z\xC3\xA9\"]{2,}$"},
                {"minLength", pick(9)},
                {"maxLength", 9 + pick(9)}};
      case 6:
        return {{"anyOf", json::array{{{"type", "string"}, {"maxLength", 2 + pick(9)}},
                                      {{"type", "null"}}}}};
      default:
        return {{"type", "string"}, {"description", "any text"}};
    }
  }

  json::value array(int depth) {
    json::object schema = {{"type", "array"}};
    if (chance(4)) {
      schema["prefixItems"] = json::array{integer(), string()};
      return schema;
    }
    schema["items"] = value(depth + 1);
    if (chance(2)) schema["minItems"] = pick(3);
    if (chance(2)) schema["maxItems"] = 3 + pick(4);
    return schema;
  }

  std::mt19937_64& random_;
};

}  // namespace

json::value random_object_schema(std::mt19937_64& random) { return Generator(random).object(0); }

}  // namespace tandem::tests
