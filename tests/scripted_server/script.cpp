#include "tests/scripted_server/script.h"

#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <string>

#include "runtime/base/errors.h"

namespace tandem::tests {
namespace {

namespace json = boost::json;

[[noreturn]] void fail(const std::string& where, const char* expected, const json::value& got) {
  std::string text = json::serialize(got);
  if (text.size() > 80) text = text.substr(0, 77) + "...";
  throw ConfigError(where + ": expected " + expected + ", got " + text);
}

void append_piece(const json::value& piece,
                  const Tokenizer& tokenizer,
                  const std::string& where,
                  std::vector<int32_t>& ids) {
  if (const json::string* text = piece.if_string()) {
    tokenizer.encode_append({text->data(), text->size()}, Tokenizer::Specials::kAsTokens, ids);
  } else if (const int64_t* id = piece.if_int64();
             id != nullptr && *id >= 0 && *id < tokenizer.vocab_size()) {
    ids.push_back(static_cast<int32_t>(*id));
  } else {
    const std::string expected =
        "text or a token id below " + std::to_string(tokenizer.vocab_size());
    fail(where, expected.c_str(), piece);
  }
}

std::vector<int32_t> parse_say(const json::value& say,
                               const Tokenizer& tokenizer,
                               const std::string& where) {
  std::vector<int32_t> ids;
  const json::array* pieces = say.if_array();
  if (pieces == nullptr && !say.is_string()) fail(where, "text, or a list of texts and ids", say);
  if (pieces == nullptr) {
    append_piece(say, tokenizer, where, ids);
  } else {
    for (const json::value& piece : *pieces) append_piece(piece, tokenizer, where, ids);
  }
  return ids;
}

ScriptedAnswer parse_answer(const json::value& entry,
                            const Tokenizer& tokenizer,
                            const std::string& where) {
  const json::object* object = entry.if_object();
  if (object == nullptr) fail(where, "an object", entry);
  ScriptedAnswer answer;
  bool has_say = false;
  for (const auto& [key, value] : *object) {
    const std::string path = where + "." + std::string(key);
    if (key == "when") {
      if (!value.is_string()) fail(path, "text", value);
      answer.when = std::string(value.get_string());
    } else if (key == "say") {
      answer.say_ids = parse_say(value, tokenizer, path);
      has_say = true;
    } else if (key == "tokens_per_step") {
      if (!value.is_int64() || value.get_int64() < 1 || value.get_int64() > 1024)
        fail(path, "a whole number from 1 to 1024", value);
      answer.tokens_per_step = static_cast<int32_t>(value.get_int64());
    } else if (key == "repeat") {
      if (!value.is_bool()) fail(path, "true or false", value);
      answer.repeat = value.get_bool();
    } else if (key == "random") {
      if (!value.is_int64()) fail(path, "a whole number, the seed", value);
      answer.random_seed = static_cast<uint64_t>(value.get_int64());
    } else {
      fail(path, "when, say, random, tokens_per_step or repeat as the name of a key", value);
    }
  }
  if (has_say == answer.random_seed.has_value()) fail(where, "one of say and random", entry);
  if (answer.repeat && answer.say_ids.empty()) fail(where + ".repeat", "something to say", entry);
  return answer;
}

}  // namespace

std::vector<ScriptedAnswer> parse_script(std::string_view text, const Tokenizer& tokenizer) {
  boost::system::error_code code;
  const json::value script = json::parse(json::string_view(text.data(), text.size()), code);
  if (code) throw ConfigError("expected JSON, got: " + code.message());
  std::vector<ScriptedAnswer> answers;
  if (script.is_object()) {
    answers.push_back(parse_answer(script, tokenizer, "script"));
    return answers;
  }
  if (!script.is_array()) fail("script", "a list of answers, or one", script);
  for (const json::value& entry : script.get_array()) {
    const std::string where = "script[" + std::to_string(answers.size()) + "]";
    answers.push_back(parse_answer(entry, tokenizer, where));
  }
  return answers;
}

}  // namespace tandem::tests
