#include "tests/server/scripted_model.h"

namespace tandem::tests {
namespace {

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

ScriptedModel::ScriptedModel(const std::vector<Script>& scripts,
                             int32_t num_kv_pages,
                             int32_t max_context_tokens)
    : DialogueModel(byte_tokenizer(),
                    to_answers(scripts),
                    {.num_kv_pages = num_kv_pages, .max_context_tokens = max_context_tokens}) {}

}  // namespace tandem::tests
