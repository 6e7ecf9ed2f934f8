// Grammars that were asked for lately. XGrammar keeps what it compiled by its text, but whoever
// asks for a text that is being compiled has to wait: this says at once what is there.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <mutex>

#include "runtime/grammar/answer_grammar.h"

namespace tandem {

// Thread-safe. Those whose last use is longest ago go when all of them outgrow the capacity.
class RecentGrammars {
 public:
  explicit RecentGrammars(int64_t capacity_bytes) : capacity_bytes_(capacity_bytes) {}

  // Null where it is not there.
  std::shared_ptr<const AnswerGrammar> find(const AnswerRules& rules);
  // `size_bytes` of the grammar; its rules are counted here.
  void add(const AnswerRules& rules,
           std::shared_ptr<const AnswerGrammar> grammar,
           int64_t size_bytes);

 private:
  struct Entry {
    AnswerRules rules;
    std::shared_ptr<const AnswerGrammar> grammar;
    int64_t size_bytes = 0;
  };
  // The entry of these rules, moved to the front; null where there is none.
  const Entry* touch(const AnswerRules& rules);

  const int64_t capacity_bytes_;
  std::mutex mutex_;
  std::list<Entry> entries_;  // latest use first
  int64_t size_bytes_ = 0;
};

}  // namespace tandem
