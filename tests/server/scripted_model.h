// A model that plays answers over a vocabulary of single bytes: what the server is tried on.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/byte_vocabulary.h"
#include "tests/support/dialogue_model.h"

namespace tandem::tests {

struct Script {
  std::string when;     // part of the last message; "" for any
  std::string say;      // text with markers; <|im_end|> follows
  bool repeat = false;  // from the start again, without end
};

class ScriptedModel : public DialogueModel {
 public:
  // The first script that fits is played; a step takes a millisecond where one repeats.
  ScriptedModel(const std::vector<Script>& scripts,
                int32_t num_kv_pages,
                int32_t max_context_tokens);
};

}  // namespace tandem::tests
