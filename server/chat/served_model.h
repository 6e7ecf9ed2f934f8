// What the endpoints need to know about the model behind them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/grammar/answer_grammar.h"
#include "runtime/tokenizer/tokenizer.h"
#include "server/chat/argument_forms.h"

namespace tandem::server {

struct ServedModel {
  const Tokenizer* tokenizer = nullptr;
  int32_t vocab_size = 0;  // of the logits
  int32_t max_context_tokens = 0;
  std::vector<std::string> names;       // not empty; the first is the one reported
  std::vector<int32_t> stop_token_ids;  // end an answer
  bool generation_prompt_opens_think = false;
  int64_t created_unix_s = 0;
  int32_t max_n = 8;
  int32_t max_choices = 256;            // of one request: what the engine's queue takes at once
  int32_t max_logprobs = 20;            // of a token, that a request may ask for; -1: no limit
  GrammarCompiler* grammars = nullptr;  // null: answers are not constrained
  bool preserve_thinking = false;       // what a request that does not say gets
  bool force_include_usage = false;     // every stream ends with its usage
  int32_t stream_interval = 1;          // tokens of a chunk of a stream, at least
  std::shared_ptr<ArgumentForms> argument_forms = std::make_shared<ArgumentForms>();
};

inline bool is_served(const ServedModel& model, std::string_view name) {
  return std::find(model.names.begin(), model.names.end(), name) != model.names.end();
}

}  // namespace tandem::server
