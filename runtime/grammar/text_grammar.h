// Grammars of plain text over a vocabulary, compiled and matched by XGrammar, which only the
// source file of this header knows. Added tokens (markers, <|im_end|>) are no text: no grammar
// allows them.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "runtime/base/result.h"
#include "runtime/grammar/grammar_error.h"
#include "runtime/tokenizer/tokenizer.h"

namespace tandem {

// Compiled; shared by all sequences that follow it.
class TextGrammar {
 public:
  struct Impl;
  explicit TextGrammar(std::unique_ptr<Impl> impl);
  ~TextGrammar();
  TextGrammar(const TextGrammar&) = delete;
  TextGrammar& operator=(const TextGrammar&) = delete;

  [[nodiscard]] const Impl& impl() const { return *impl_; }
  [[nodiscard]] int64_t size_bytes() const;

 private:
  std::unique_ptr<Impl> impl_;
};

// Where one sequence is in a grammar. Not thread-safe.
class TextMatcher {
 public:
  explicit TextMatcher(std::shared_ptr<const TextGrammar> grammar);
  ~TextMatcher();
  TextMatcher(TextMatcher&&) noexcept;
  TextMatcher& operator=(TextMatcher&&) noexcept;

  // Sets exactly the bits of the tokens that may follow: none where the matcher fails.
  // [(vocab_size + 31) / 32] words.
  void fill(std::span<uint32_t> mask);
  // False when the token does not fit; the matcher is then of no further use.
  [[nodiscard]] bool accept(int32_t token_id);
  [[nodiscard]] bool is_complete() const;  // the text so far is a whole one

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

class TextGrammarCompiler {
 public:
  struct Options {
    int num_threads = 1;                   // of one compilation
    int64_t cache_size_bytes = 256 << 20;  // compiled grammars and their parts; the oldest go
  };
  // Builds its table of the vocabulary (0.1 s for K2's). `vocab_size` is the model's, which may be
  // larger than the tokenizer's.
  TextGrammarCompiler(const Tokenizer& tokenizer, int32_t vocab_size, const Options& options);
  ~TextGrammarCompiler();

  // Thread-safe. The error says what XGrammar says.
  Result<std::shared_ptr<const TextGrammar>, GrammarError> compile_ebnf(const std::string& ebnf);
  Result<std::shared_ptr<const TextGrammar>, GrammarError> compile_lark(const std::string& lark);
  Result<std::shared_ptr<const TextGrammar>, GrammarError> compile_structural_tag(
      const std::string& tag_json);

  [[nodiscard]] int64_t cached_size_bytes() const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
