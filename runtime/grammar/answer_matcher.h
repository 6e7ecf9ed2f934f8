// Follows one answer, token by token: markers by id, what stands between them by TextMatchers.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "runtime/grammar/answer_grammar.h"
#include "runtime/grammar/length_tracker.h"
#include "runtime/grammar/text_grammar.h"

namespace tandem {

using SharedTextGrammar = std::shared_ptr<const TextGrammar>;

// What GrammarCompiler makes of AnswerRules.
struct CompiledAnswer {
  struct Function {
    std::string name;
    SharedTextGrammar arguments;
    std::shared_ptr<const LengthPlan> lengths;  // of the strings in them; null: no limits
  };
  const Tokenizer* tokenizer = nullptr;
  std::vector<Function> functions;
  SharedTextGrammar header;  // functions.NAME:IDX
  bool call_required = false;
  int32_t max_calls = 0;
  SharedTextGrammar format;                           // null: free text
  std::shared_ptr<const LengthPlan> format_lengths;   // null: no limits
  std::shared_ptr<const TokenLengths> token_lengths;  // where there are limits
  std::string format_field;
  bool may_think = true;
  bool starts_in_reasoning = false;
  std::optional<int32_t> thinking_budget;
};

class AnswerMatcher : public TokenConstraint {
 public:
  explicit AnswerMatcher(std::shared_ptr<const CompiledAnswer> answer);

  Allowance allow(std::span<uint32_t> mask) override;
  [[nodiscard]] bool accept(int32_t token_id) override;
  [[nodiscard]] std::string feature() const override;

 private:
  enum class Part {
    kContent,    // also before <think>
    kReasoning,  // after <think>
    kSection,    // between section_begin and call_begin, and between calls
    kHeader,     // after call_begin
    kArguments,  // after argument_begin
    kEnd,        // nothing may follow
  };

  Allowance allow_content(std::span<uint32_t> mask);
  Allowance allow_reasoning(std::span<uint32_t> mask) const;
  Allowance allow_section(std::span<uint32_t> mask) const;
  // What the matcher allows and, where its text is whole, `end_marker`.
  Allowance allow_text(std::span<uint32_t> mask, int32_t end_marker);
  [[nodiscard]] bool accept_content(int32_t token_id);
  [[nodiscard]] bool begin_arguments();
  void begin_text(const SharedTextGrammar& grammar,
                  const std::shared_ptr<const LengthPlan>& lengths);
  void fill_text(std::span<uint32_t> mask);
  [[nodiscard]] bool accept_text(int32_t token_id);
  void end_section();
  [[nodiscard]] bool may_call() const;

  std::shared_ptr<const CompiledAnswer> answer_;
  const SpecialTokens& markers_;
  Part part_ = Part::kContent;
  std::optional<TextMatcher> text_;       // of the part, where it has one
  std::optional<LengthTracker> lengths_;  // beside it
  bool has_reasoned_ = false;
  bool has_content_ = false;
  bool in_section_ = false;
  bool section_has_call_ = false;
  int32_t num_calls_ = 0;
  int32_t num_reasoning_tokens_ = 0;
  std::string header_;
  const CompiledAnswer::Function* function_ = nullptr;  // whose arguments are being written
};

}  // namespace tandem
