#include "runtime/grammar/structural_tag.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <boost/json/serialize.hpp>
#include <cstdint>
#include <initializer_list>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/grammar/ebnf.h"
#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/regex.h"
#include "runtime/tokenizer/nested_json.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr size_t kMaxTagBytes = 1 << 20;
constexpr int kMaxDepth = 32;         // of formats in formats
constexpr int kMaxFormats = 256;      // each is compiled: some 20 ms of K2's vocabulary
constexpr int64_t kMaxRepeats = 999;  // of a format, those around it multiplied
constexpr int64_t kMaxBudget = 1 << 20;
constexpr size_t kMaxWords = 256;  // triggers, excludes: one automaton
constexpr size_t kMaxWordBytes = 256;
// Where text can be divided between formats in many ways, a mask of K2's vocabulary takes the
// engine long: 0.2 s with 16 of "[a-z]+" in a row, minutes with 128.
constexpr int kMaxOpenFormats = 4;
constexpr std::string_view kFormats =
    "any_text, const_string, dispatch, grammar, json_schema, optional, or, plus, regex, repeat, "
    "sequence, star, tag, tags_with_separator or triggered_tags";

struct TagRefusal {
  std::string message;
};

[[noreturn]] void refuse(std::string_view path, std::string_view what) {
  throw TagRefusal{fmt::format("{}: {}", path, what)};
}

std::string_view as_view(const json::string& text) { return {text.data(), text.size()}; }

// One format; `repeats`: how often it stands in the text where everything around it is counted.
struct Place {
  std::string path;
  int depth = 0;
  int64_t repeats = 1;

  [[nodiscard]] Place inside(std::string_view key) const {
    return {fmt::format("{}.{}", path, key), depth + 1, repeats};
  }
  [[nodiscard]] Place item(std::string_view key, size_t idx) const {
    return {fmt::format("{}.{}[{}]", path, key, idx), depth + 1, repeats};
  }
};

// An object of the client's that has no keys but those that are read.
class Keys {
 public:
  Keys(const json::value& value, std::string path) : path_(std::move(path)) {
    if (!value.is_object()) refuse(path_, "expected an object");
    object_ = &value.get_object();
  }

  const json::value* find(std::string_view key) {
    known_.push_back(key);
    return object_->if_contains(json::string_view(key.data(), key.size()));
  }
  const json::value& get(std::string_view key, std::string_view expected) {
    const json::value* value = find(key);
    if (value == nullptr) refuse(path_, fmt::format("expected {} as {}", expected, key));
    return *value;
  }
  const json::array& array(std::string_view key) {
    const json::value& value = get(key, "a list");
    if (!value.is_array() || value.get_array().empty())
      refuse(path(key), "expected a list that is not empty");
    return value.get_array();
  }
  const json::value& string(std::string_view key) {
    const json::value& value = get(key, "a string");
    if (!value.is_string()) refuse(path(key), "expected a string");
    return value;
  }
  void copy_flag(std::string_view key, json::object& out) {
    const json::value* value = find(key);
    if (value == nullptr) return;
    if (!value->is_bool()) refuse(path(key), "expected true or false");
    out[json::string_view(key.data(), key.size())] = *value;
  }
  // Strings that are not empty; the list may be.
  void copy_words(std::string_view key, json::object& out) {
    const json::value* value = find(key);
    if (value == nullptr) return;
    const auto is_word = [](const json::value& word) {
      return word.is_string() && !word.get_string().empty() &&
             word.get_string().size() <= kMaxWordBytes;
    };
    if (!value->is_array() || value->get_array().size() > kMaxWords ||
        !std::all_of(value->get_array().begin(), value->get_array().end(), is_word))
      refuse(path(key), fmt::format("expected a list of at most {} strings of 1 to {} bytes",
                                    kMaxWords, kMaxWordBytes));
    out[json::string_view(key.data(), key.size())] = *value;
  }
  std::optional<int64_t> integer(std::string_view key, int64_t least, int64_t most) {
    const json::value* value = find(key);
    if (value == nullptr || value->is_null()) return std::nullopt;
    boost::system::error_code code;
    const auto number = value->to_number<int64_t>(code);
    if (code || number < least || number > most)
      refuse(path(key), fmt::format("expected a whole number from {} to {}", least, most));
    return number;
  }
  void refuse_others() const {
    for (const auto& entry : *object_) {
      const std::string_view key(entry.key().data(), entry.key().size());
      if (std::find(known_.begin(), known_.end(), key) == known_.end())
        refuse(path(key), "no such key is known here");
    }
  }
  [[nodiscard]] std::string path(std::string_view key) const {
    return fmt::format("{}.{}", path_, key);
  }

 private:
  const json::object* object_ = nullptr;
  std::string path_;
  std::vector<std::string_view> known_;
};

json::object grammar_format(const std::string& ebnf) {
  return {{"type", "grammar"}, {"grammar", ebnf}};
}

json::object schema_format(const json::value& schema, const std::string& path) {
  const auto grammar = json_schema_grammar(json::serialize(schema), SchemaPolicy::kExact);
  if (!grammar) refuse(path, grammar.error().message);
  // They are counted beside a grammar, from the first byte of a document on.
  if (!grammar->lengths.empty())
    refuse(path, "minLength and maxLength of strings cannot be enforced inside a structural tag");
  return grammar_format(grammar->ebnf);
}

bool is_leaf(std::string_view type) {
  constexpr std::array<std::string_view, 6> kGroups = {"sequence", "or",   "optional",
                                                       "plus",     "star", "repeat"};
  return std::find(kGroups.begin(), kGroups.end(), type) == kGroups.end();
}

// Whatever it matches starts with text of its own: it is clear where it begins. Of a format that
// has not been checked yet, and no deeper than one is allowed to be.
bool begins_with_word(const json::value& format, int depth = 0) {
  if (!format.is_object() || depth > kMaxDepth) return false;
  const json::object& object = format.get_object();
  const auto is_word = [&](const char* key) {
    const json::value* word = object.if_contains(key);
    return word != nullptr && word->is_string() && !word->get_string().empty();
  };
  const json::value* type = object.if_contains("type");
  if (type == nullptr) return false;
  if (*type == "tag") return is_word("begin");
  if (*type == "const_string") return is_word("value");
  if (*type == "json_schema") {
    const json::value* schema = object.if_contains("json_schema");
    if (schema == nullptr || !schema->is_object()) return false;
    const json::value* value_type = schema->get_object().if_contains("type");
    return value_type != nullptr &&
           (*value_type == "object" || *value_type == "array" || *value_type == "string");
  }
  if (*type != "sequence" && *type != "or") return false;
  const json::value* elements = object.if_contains("elements");
  if (elements == nullptr || !elements->is_array() || elements->get_array().empty()) return false;
  const json::array& list = elements->get_array();
  if (*type == "sequence") return begins_with_word(list.front(), depth + 1);
  return std::all_of(list.begin(), list.end(), [&](const json::value& element) {
    return begins_with_word(element, depth + 1);
  });
}

class TagWriter {
 public:
  json::object write(const json::value& tag) {
    if (!tag.is_object()) refuse("structural tag", "expected an object");
    const json::object& object = tag.get_object();
    const json::value* format = object.if_contains("format");
    const bool is_legacy = object.contains("structures");
    if (is_legacy == (format != nullptr))
      refuse("format", "expected either format or structures with triggers");
    return {{"type", "structural_tag"},
            {"format", is_legacy ? write_legacy(object) : write_format(*format, {"format"})}};
  }

 private:
  static json::object write_legacy(const json::object& tag) {
    json::object out{{"type", "triggered_tags"}};
    const json::value whole(tag);
    Keys keys(whole, "structural tag");
    json::array tags;
    const json::array& structures = keys.array("structures");
    if (structures.size() > kMaxFormats)
      refuse("structures", fmt::format("expected at most {} of them", kMaxFormats));
    for (size_t idx = 0; idx < structures.size(); ++idx) {
      const std::string path = fmt::format("structures[{}]", idx);
      Keys item(structures[idx], path);
      json::object written{{"type", "tag"}};
      written["begin"] = item.string("begin");
      written["content"] =
          schema_format(parsed_schema(item.get("schema", "a JSON Schema"), path), path + ".schema");
      written["end"] = item.string("end");
      item.refuse_others();
      tags.push_back(std::move(written));
    }
    out["tags"] = std::move(tags);
    keys.array("triggers");
    keys.copy_words("triggers", out);
    return out;
  }

  // As an object or as its text.
  static json::value parsed_schema(const json::value& schema, const std::string& path) {
    if (!schema.is_string()) return schema;
    auto parsed = parse_nested_json(as_view(schema.get_string()), kMaxRequestDepth);
    if (!parsed) refuse(path + ".schema", "expected a JSON Schema");
    return *std::move(parsed);
  }

  json::object write_format(const json::value& format, const Place& place) {
    if (place.depth > kMaxDepth) refuse(place.path, "formats are nested too deeply");
    if (++num_formats_ > kMaxFormats)
      refuse(place.path, fmt::format("more than {} formats", kMaxFormats));
    Keys keys(format, place.path);
    const std::string_view type = as_view(keys.string("type").get_string());
    json::object out{{"type", json::string_view(type.data(), type.size())}};
    if (is_leaf(type) && !begins_with_word(format) && ++num_open_ > kMaxOpenFormats)
      refuse(place.path, fmt::format("more than {} formats in a row that do not begin with a word",
                                     kMaxOpenFormats));
    if (type == "const_string") {
      out["value"] = keys.string("value");
    } else if (type == "json_schema") {
      out = write_schema(keys, place);
    } else if (type == "regex") {
      out = write_regex(keys);
    } else if (type == "grammar") {
      out["grammar"] = keys.string("grammar");
      if (const auto problem = grammar_problem(as_view(out["grammar"].get_string())))
        refuse(keys.path("grammar"), *problem);
    } else if (type == "any_text") {
      keys.copy_words("excludes", out);
      for (const std::string_view budget : {"max_tokens", "max_chars"}) {
        if (const auto most = keys.integer(budget, 0, kMaxBudget))
          out[json::string_view(budget.data(), budget.size())] = *most;
      }
    } else if (!write_compound(type, keys, place, out)) {
      refuse(keys.path("type"), fmt::format("expected {}, got '{}'", kFormats, type.substr(0, 40)));
    }
    keys.refuse_others();
    return out;
  }

  bool write_compound(std::string_view type, Keys& keys, const Place& place, json::object& out) {
    if (type == "sequence" || type == "or") {
      write_elements(type == "or", keys, place, out);
    } else if (type == "optional") {
      out["content"] = write_format(keys.get("content", "a format"), place.inside("content"));
    } else if (type == "plus" || type == "star") {
      out["content"] = write_format(repeated(keys, place), place.inside("content"));
    } else if (type == "repeat") {
      write_repeat(keys, place, out);
    } else if (type == "tag") {
      write_tag(keys, place, out);
    } else if (type == "triggered_tags") {
      keys.array("triggers");
      keys.copy_words("triggers", out);
      keys.copy_words("excludes", out);
      write_tags(keys, place, out);
    } else if (type == "tags_with_separator") {
      out["separator"] = keys.string("separator");
      write_tags(keys, place, out);
    } else if (type == "dispatch") {
      write_dispatch(keys, place, out);
    } else {
      return false;
    }
    return true;
  }

  // Of alternatives, the one with most open formats counts.
  void write_elements(bool are_alternatives, Keys& keys, const Place& place, json::object& out) {
    const json::array& elements = keys.array("elements");
    const int num_before = num_open_;
    int most_open = 0;
    json::array written;
    for (size_t idx = 0; idx < elements.size(); ++idx) {
      if (are_alternatives) num_open_ = num_before;
      written.push_back(write_format(elements[idx], place.item("elements", idx)));
      most_open = std::max(most_open, num_open_);
    }
    num_open_ = most_open;
    out["elements"] = std::move(written);
  }

  static const json::value& repeated(Keys& keys, const Place& place) {
    const json::value& content = keys.get("content", "a format");
    if (!begins_with_word(content))
      refuse(place.path + ".content",
             "what repeats has to begin with a word that tells where: a tag, a const_string or a "
             "schema with type object, array or string");
    return content;
  }

  static json::object write_schema(Keys& keys, const Place& place) {
    // Of what XGrammar adds to a schema, only what says nothing.
    const json::value* style = keys.find("style");
    if (style != nullptr && *style != "json")
      refuse(keys.path("style"), "expected 'json': other styles are not supported");
    const json::value* any_order = keys.find("any_order");
    if (any_order != nullptr && *any_order != false)
      refuse(keys.path("any_order"), "expected false: it is not supported");
    const json::value* excludes = keys.find("excludes");
    if (excludes != nullptr && *excludes != json::array{})
      refuse(keys.path("excludes"), "expected nothing: it is not supported inside a schema");
    const json::value* white = keys.find("max_whitespace_cnt");
    if (white != nullptr && !white->is_null())
      refuse(keys.path("max_whitespace_cnt"), "expected null: it is not supported");
    return schema_format(keys.get("json_schema", "a JSON Schema"), place.path + ".json_schema");
  }

  static json::object write_regex(Keys& keys) {
    const auto pattern = as_view(keys.string("pattern").get_string());
    const auto regex = rewrite_regex(pattern, RegexUse::kWholeText);
    if (!regex) refuse(keys.path("pattern"), regex.error().message);
    return grammar_format(fmt::format("root ::= {}\n", ebnf_regex(*regex)));
  }

  void write_repeat(Keys& keys, const Place& place, json::object& out) {
    const auto least = keys.integer("min", 0, kMaxRepeats);
    const auto most = keys.integer("max", -1, kMaxRepeats);
    if (!least || !most) refuse(place.path, "expected whole numbers as min and max");
    if (*most >= 0 && *most < *least) refuse(keys.path("max"), "expected no less than min");
    Place inside = place.inside("content");
    inside.repeats *= std::max<int64_t>(1, std::max(*least, *most));
    if (inside.repeats > kMaxRepeats)
      refuse(place.path, fmt::format("repeats inside repeats come to more than {}", kMaxRepeats));
    out["min"] = *least;
    out["max"] = *most;
    out["content"] = write_format(repeated(keys, place), inside);
  }

  void write_tag(Keys& keys, const Place& place, json::object& out) {
    out["begin"] = keys.string("begin");
    const json::value& end = keys.get("end", "a string or a list of strings");
    if (end.is_array()) {
      keys.array("end");
      for (const json::value& word : end.get_array()) {
        if (!word.is_string()) refuse(keys.path("end"), "expected strings");
      }
    } else {
      keys.string("end");
    }
    out["end"] = end;
    const int num_before = std::exchange(num_open_, 0);
    out["content"] = write_format(keys.get("content", "a format"), place.inside("content"));
    num_open_ = num_before;
  }

  void write_tags(Keys& keys, const Place& place, json::object& out) {
    const json::array& tags = keys.array("tags");
    json::array written;
    for (size_t idx = 0; idx < tags.size(); ++idx) {
      const Place tag = place.item("tags", idx);
      if (++num_formats_ > kMaxFormats)
        refuse(tag.path, fmt::format("more than {} formats", kMaxFormats));
      Keys members(tags[idx], tag.path);
      const json::value* type = members.find("type");
      if (type != nullptr && *type != "tag") refuse(members.path("type"), "expected 'tag'");
      json::object out_tag{{"type", "tag"}};
      write_tag(members, tag, out_tag);
      members.refuse_others();
      written.push_back(std::move(out_tag));
    }
    out["tags"] = std::move(written);
    keys.copy_flag("at_least_one", out);
    keys.copy_flag("stop_after_first", out);
  }

  void write_dispatch(Keys& keys, const Place& place, json::object& out) {
    const json::array& rules = keys.array("rules");
    json::array written;
    for (size_t idx = 0; idx < rules.size(); ++idx) {
      const Place rule = place.item("rules", idx);
      const bool is_pair = rules[idx].is_array() && rules[idx].get_array().size() == 2 &&
                           rules[idx].get_array()[0].is_string();
      if (!is_pair) refuse(rule.path, "expected a string and a format");
      const json::array& pair = rules[idx].get_array();
      written.push_back(json::array{pair[0], write_format(pair[1], rule)});
    }
    out["rules"] = std::move(written);
    keys.copy_flag("loop", out);
    keys.copy_words("excludes", out);
  }

  int num_formats_ = 0;
  int num_open_ = 0;  // in a row, outside of tags
};

}  // namespace

Result<std::string, GrammarError> structural_tag(std::string_view tag_json) {
  if (tag_json.size() > kMaxTagBytes)
    return GrammarError{fmt::format("expected at most {} bytes", kMaxTagBytes)};
  const std::optional<json::value> tag = parse_nested_json(tag_json, kMaxRequestDepth);
  if (!tag) return GrammarError{"expected a structural tag as JSON"};
  try {
    return json::serialize(TagWriter().write(*tag));
  } catch (TagRefusal& refusal) {
    return GrammarError{std::move(refusal.message)};
  }
}

}  // namespace tandem
