// What an answer must look like: thinking, then text or a format, or calls of declared functions,
// with K2's markers (serving/spec.md §1.1, 1.4, 1.5). Free text stays untouched.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/base/result.h"
#include "runtime/grammar/grammar_error.h"
#include "runtime/sampling/token_constraint.h"
#include "runtime/tokenizer/chat.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem {

// The text behind the thinking part, all of it.
struct AnswerFormat {
  enum class Kind { kJsonSchema, kJsonObject, kRegex, kChoice, kGrammar, kStructuralTag };
  Kind kind = Kind::kJsonObject;
  // Schema, pattern, grammar (EBNF; Lark without "::=") or structural tag.
  std::string text{};
  std::vector<std::string> choices{};  // kChoice
  std::string field{};                 // of the request, for messages: "response_format"

  bool operator==(const AnswerFormat&) const = default;
};

struct AnswerRules {
  // Functions that may be called; none: no calls, and their markers are not looked for.
  std::vector<ToolDeclaration> tools{};
  bool call_required = false;  // directly behind the thinking part
  int32_t max_calls = 0;       // 0: any number
  std::optional<AnswerFormat> format{};
  bool may_think = true;                     // the answer may begin with <think>
  bool starts_in_reasoning = false;          // the prompt ended with <think>
  std::optional<int32_t> thinking_budget{};  // tokens before </think> is forced

  [[nodiscard]] bool empty() const { return tools.empty() && !format && !thinking_budget; }
  bool operator==(const AnswerRules&) const = default;
};

// Compiled rules, shared by the choices of a request.
class AnswerGrammar {
 public:
  virtual ~AnswerGrammar() = default;
  [[nodiscard]] virtual std::unique_ptr<TokenConstraint> start() const = 0;
  // "get_weather: properties.days: multipleOf ...": what of the tools' schemas is not enforced.
  [[nodiscard]] virtual const std::vector<std::string>& unenforced() const = 0;
  // What is wrong with a finished call of a function whose schema is not enforced as a whole:
  // "tags: uniqueItems: items 0 and 2 are the same". Thread-safe.
  [[nodiscard]] virtual std::optional<std::string> find_violation(
      std::string_view function, std::string_view arguments) const = 0;
};

class GrammarCompiler {
 public:
  struct Options {
    int num_threads = 1;
    int64_t cache_size_bytes = int64_t{512} << 20;  // of texts, and of answers made of them
  };
  // `tokenizer` outlives the compiler and what it compiled. 0.1 s for K2's vocabulary.
  GrammarCompiler(const Tokenizer& tokenizer, int32_t vocab_size, const Options& options);
  GrammarCompiler(const Tokenizer& tokenizer, int32_t vocab_size);
  ~GrammarCompiler();

  // Thread-safe; milliseconds for what is cached, some 100 ms for a large schema, and up to a
  // minute for the worst, which nothing interrupts. What another thread is compiling is waited for.
  // The error begins with the field and names, of a schema, keyword and path.
  Result<std::shared_ptr<const AnswerGrammar>, GrammarError> compile(const AnswerRules& rules);
  // The same, at once, where there is nothing to compile any more; else null. Thread-safe.
  std::shared_ptr<const AnswerGrammar> find(const AnswerRules& rules);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
