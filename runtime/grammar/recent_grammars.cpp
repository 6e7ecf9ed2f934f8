#include "runtime/grammar/recent_grammars.h"

#include <algorithm>
#include <string>
#include <utility>

namespace tandem {
namespace {

constexpr size_t kMaxEntries = 256;  // looked through one by one

int64_t size_bytes_of(const AnswerRules& rules) {
  constexpr int64_t kTextCopies = 10;  // a schema that is parsed takes several times its text
  size_t num_bytes = 0;
  for (const ToolDeclaration& tool : rules.tools)
    num_bytes += sizeof(tool) + tool.name.size() + tool.parameters_json.size();
  if (rules.format) {
    num_bytes += rules.format->text.size() + rules.format->field.size();
    for (const std::string& choice : rules.format->choices)
      num_bytes += sizeof(choice) + choice.size();
  }
  return kTextCopies * static_cast<int64_t>(num_bytes);
}

}  // namespace

std::shared_ptr<const AnswerGrammar> RecentGrammars::find(const AnswerRules& rules) {
  const std::lock_guard lock(mutex_);
  const Entry* entry = touch(rules);
  return entry == nullptr ? nullptr : entry->grammar;
}

void RecentGrammars::add(const AnswerRules& rules,
                         std::shared_ptr<const AnswerGrammar> grammar,
                         int64_t size_bytes) {
  size_bytes += size_bytes_of(rules);
  const std::lock_guard lock(mutex_);
  if (touch(rules) != nullptr) return;  // compiled twice at the same time
  entries_.push_front({rules, std::move(grammar), size_bytes});
  size_bytes_ += size_bytes;
  while (!entries_.empty() && (size_bytes_ > capacity_bytes_ || entries_.size() > kMaxEntries)) {
    size_bytes_ -= entries_.back().size_bytes;
    entries_.pop_back();
  }
}

const RecentGrammars::Entry* RecentGrammars::touch(const AnswerRules& rules) {
  const auto found = std::find_if(entries_.begin(), entries_.end(),
                                  [&](const Entry& entry) { return entry.rules == rules; });
  if (found == entries_.end()) return nullptr;
  entries_.splice(entries_.begin(), entries_, found);
  return &entries_.front();
}

}  // namespace tandem
