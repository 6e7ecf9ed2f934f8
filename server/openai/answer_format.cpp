#include "server/openai/answer_format.h"

#include <array>
#include <boost/json/serialize.hpp>
#include <utility>

#include "server/chat/json_text.h"

namespace tandem::server {
namespace {

namespace json = boost::json;

using Kind = AnswerFormat::Kind;

struct Alias {
  std::string_view key;
  Kind kind;
};
constexpr std::array<Alias, 4> kGuided = {{{"guided_json", Kind::kJsonSchema},
                                           {"guided_regex", Kind::kRegex},
                                           {"guided_choice", Kind::kChoice},
                                           {"guided_grammar", Kind::kGrammar}}};
constexpr std::array<Alias, 5> kStructuredOutputs = {{{"json", Kind::kJsonSchema},
                                                      {"regex", Kind::kRegex},
                                                      {"choice", Kind::kChoice},
                                                      {"grammar", Kind::kGrammar},
                                                      {"structural_tag", Kind::kStructuralTag}}};
constexpr std::array<Alias, 2> kShort = {{{"regex", Kind::kRegex}, {"ebnf", Kind::kGrammar}}};

class Reader {
 public:
  Reader(FieldReader& fields, GenerationOptions& request) : fields_(fields), request_(request) {}

  void set(AnswerFormat format) {
    if (!fields_.ok()) return;
    if (request_.format) {
      return fields_.fail(
          unsupported(format.field, "a second format", "beside '" + request_.format->field + "'"));
    }
    request_.format = std::move(format);
  }

  template <size_t kNum>
  void read_aliases(FieldReader& fields, const std::array<Alias, kNum>& aliases) {
    for (const auto& [key, kind] : aliases) {
      if (fields.find(key) != nullptr) read_alias(fields, key, kind);
    }
    if (&fields != &fields_ && !fields.ok()) fields_.fail(*fields.error());
  }

  void read_response_format() {
    const json::object* format = fields_.object("response_format");
    if (format == nullptr) return;
    FieldReader entries(*format, "response_format.");
    const auto type = entries.string("type");
    entries.ignore({"json_schema", "format", "structures", "triggers"});
    if (!entries.ok()) return fields_.fail(*entries.error());
    if (type && *type == "text") return;
    if (type && *type == "json_object")
      return set({.kind = Kind::kJsonObject, .field = "response_format"});
    if (type && *type == "json_schema") return read_json_schema(entries);
    if (type && *type == "structural_tag")
      return set({.kind = Kind::kStructuralTag,
                  .text = json::serialize(*format),
                  .field = "response_format"});
    fields_.fail(invalid_value("response_format.type",
                               "'text', 'json_object', 'json_schema' or 'structural_tag'",
                               type ? json_excerpt(*entries.find("type")) : "nothing"));
  }

 private:
  void read_json_schema(FieldReader& entries) {
    const json::object* described = entries.object("json_schema");
    if (!entries.ok()) return fields_.fail(*entries.error());
    constexpr std::string_view kField = "response_format.json_schema.schema";
    if (described == nullptr) {
      return fields_.fail(invalid_value(kField, "a JSON Schema", "nothing"));
    }
    FieldReader members(*described, "response_format.json_schema.");
    members.ignore({"name", "description", "strict"});
    const json::value* schema = members.find("schema");
    if (schema == nullptr || !schema->is_object()) {
      return fields_.fail(
          invalid_value(kField, "a JSON Schema", schema ? json_excerpt(*schema) : "nothing"));
    }
    set({.kind = Kind::kJsonSchema,
         .text = json::serialize(*schema),
         .field = std::string(kField)});
  }

  void read_alias(FieldReader& fields, std::string_view key, Kind kind) {
    AnswerFormat format{.kind = kind, .field = fields.path(key)};
    const json::value& value = *fields.find(key);
    if (kind == Kind::kChoice) {
      const json::array* choices = fields.array(key);
      if (choices == nullptr) return;
      for (const json::value& choice : *choices) {
        if (!choice.is_string()) return fields.fail_value(key, "a list of strings", value);
        format.choices.emplace_back(as_view(choice.get_string()));
      }
      return set(std::move(format));
    }
    // A schema and a structural tag come as an object or as its text.
    const bool may_be_object = kind == Kind::kJsonSchema || kind == Kind::kStructuralTag;
    if (may_be_object && value.is_object()) {
      format.text = json::serialize(value);
      return set(std::move(format));
    }
    const auto text = fields.string(key);
    if (!text) return;
    format.text = *text;
    set(std::move(format));
  }

  FieldReader& fields_;
  GenerationOptions& request_;
};

}  // namespace

void read_answer_format(FieldReader& fields, GenerationOptions& request) {
  Reader reader(fields, request);
  reader.read_response_format();
  reader.read_aliases(fields, kGuided);
  reader.read_aliases(fields, kShort);
  if (const json::object* nvext = fields.object("nvext")) {
    FieldReader entries(*nvext, "nvext.");
    reader.read_aliases(entries, kGuided);
  }
  if (const json::object* outputs = fields.object("structured_outputs")) {
    FieldReader entries(*outputs, "structured_outputs.");
    reader.read_aliases(entries, kStructuredOutputs);
    if (entries.boolean("json_object").value_or(false))
      reader.set({.kind = Kind::kJsonObject, .field = "structured_outputs.json_object"});
  }
}

}  // namespace tandem::server
