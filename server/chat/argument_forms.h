// Arguments of tool calls come back from clients in other words: compact, spaced, with keys in
// another order. The KV pages of a conversation hold the model's own words, so a call of the
// history is put into the form first met of the same meaning (serving/clients.md).
#pragma once

#include <cstddef>
#include <list>
#include <mutex>
#include <string>
#include <string_view>
#include <unordered_map>

namespace tandem::server {

// Thread-safe. Least recently used forms go when the texts outgrow the capacity.
class ArgumentForms {
 public:
  explicit ArgumentForms(size_t capacity_bytes = size_t{64} << 20)
      : capacity_bytes_(capacity_bytes) {}

  // The known text of the same JSON value; if none is, `arguments` with `, ` and `: ` as the model
  // writes, which is the known one from then on. What is no JSON comes back as it is.
  std::string known_form(std::string_view arguments);
  // The model wrote `arguments`: this is their form from now on.
  void learn(std::string_view arguments);

 private:
  struct Form {
    std::string meaning;  // keys sorted, compact
    std::string text;
    [[nodiscard]] size_t size_bytes() const { return meaning.size() + text.size(); }
  };
  void insert(Form form);

  const size_t capacity_bytes_;
  std::mutex mutex_;
  std::list<Form> forms_;                                                  // latest use first
  std::unordered_map<std::string_view, std::list<Form>::iterator> index_;  // by Form::meaning
  size_t size_bytes_ = 0;
};

}  // namespace tandem::server
