#include "tests/server/scripted_model.h"

#include <string_view>

namespace tandem::tests {
namespace {

std::string base64(unsigned char byte) {
  constexpr std::string_view kDigits =
      "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  return {kDigits[byte >> 2], kDigits[(byte & 3) << 4], '=', '='};
}

std::vector<ScriptedAnswer> to_answers(const std::vector<Script>& scripts) {
  std::vector<ScriptedAnswer> answers;
  for (const Script& script : scripts) {
    ScriptedAnswer answer;
    answer.when = script.when;
    answer.say_ids = byte_tokenizer().encode(script.say, Tokenizer::Specials::kAsTokens);
    answer.repeat = script.repeat;
    answers.push_back(std::move(answer));
  }
  return answers;
}

}  // namespace

const Tokenizer& byte_tokenizer() {
  static const Tokenizer tokenizer = [] {
    std::string lines;
    for (int byte = 0; byte < 256; ++byte) {
      lines += base64(static_cast<unsigned char>(byte)) + " " + std::to_string(byte) + "\n";
    }
    return Tokenizer::parse(lines, "", 512, "bytes");
  }();
  return tokenizer;
}

ScriptedModel::ScriptedModel(const std::vector<Script>& scripts,
                             int32_t num_kv_pages,
                             int32_t max_context_tokens)
    : DialogueModel(byte_tokenizer(),
                    to_answers(scripts),
                    {.num_kv_pages = num_kv_pages, .max_context_tokens = max_context_tokens}) {}

}  // namespace tandem::tests
