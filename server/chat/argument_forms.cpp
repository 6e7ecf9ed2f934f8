#include "server/chat/argument_forms.h"

#include <optional>
#include <stdexcept>
#include <utility>

#include "runtime/tokenizer/chat.h"

namespace tandem::server {
namespace {

std::optional<std::string> meaning_of(std::string_view arguments) {
  try {
    return canonical_tools_json(arguments);
  } catch (const std::invalid_argument&) {
    return std::nullopt;
  }
}

}  // namespace

std::string ArgumentForms::known_form(std::string_view arguments) {
  std::optional<std::string> meaning = meaning_of(arguments);
  if (!meaning) return std::string(arguments);
  {
    const std::lock_guard lock(mutex_);
    const auto known = index_.find(*meaning);
    if (known != index_.end()) {
      forms_.splice(forms_.begin(), forms_, known->second);
      return known->second->text;
    }
  }
  std::string text = spaced_json(arguments);
  insert({std::move(*meaning), text});
  return text;
}

void ArgumentForms::learn(std::string_view arguments) {
  std::optional<std::string> meaning = meaning_of(arguments);
  if (meaning) insert({std::move(*meaning), std::string(arguments)});
}

void ArgumentForms::insert(Form form) {
  const std::lock_guard lock(mutex_);
  const auto known = index_.find(form.meaning);
  if (known != index_.end()) {
    const auto old = known->second;
    index_.erase(known);  // its key is a view of the form
    size_bytes_ -= old->size_bytes();
    forms_.erase(old);
  }
  size_bytes_ += form.size_bytes();
  forms_.push_front(std::move(form));
  index_[forms_.front().meaning] = forms_.begin();
  while (size_bytes_ > capacity_bytes_) {
    size_bytes_ -= forms_.back().size_bytes();
    index_.erase(forms_.back().meaning);
    forms_.pop_back();
  }
}

}  // namespace tandem::server
