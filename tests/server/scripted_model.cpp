#include "tests/server/scripted_model.h"

#include <algorithm>
#include <chrono>

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
                    {.num_kv_pages = num_kv_pages, .max_context_tokens = max_context_tokens}) {
  // An answer without end ends with its context all the same: not before a busy machine has come to
  // what the test does meanwhile.
  const bool repeats = std::any_of(scripts.begin(), scripts.end(),
                                   [](const Script& script) { return script.repeat; });
  if (repeats) set_step_time(std::chrono::milliseconds(1));
}

}  // namespace tandem::tests
