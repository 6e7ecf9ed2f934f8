#include "runtime/grammar/answer_grammar.h"

#include <fmt/format.h>

#include <algorithm>
#include <mutex>
#include <utility>

#include "runtime/grammar/answer_matcher.h"
#include "runtime/grammar/ebnf.h"
#include "runtime/grammar/json_schema.h"
#include "runtime/grammar/recent_grammars.h"
#include "runtime/grammar/regex.h"
#include "runtime/grammar/schema_check.h"
#include "runtime/grammar/structural_tag.h"
#include "runtime/grammar/text_grammar.h"
#include "runtime/tokenizer/nested_json.h"

namespace tandem {
namespace {

namespace json = boost::json;

constexpr size_t kMaxChoices = 4096;
constexpr size_t kMaxArgumentsDepth = 1024;  // and of their schemas

// What is known of a function's schema beyond its grammar.
struct LooseSchema {
  std::string function;
  json::value schema;
};

class CompiledGrammar : public AnswerGrammar {
 public:
  CompiledGrammar(std::shared_ptr<const CompiledAnswer> answer,
                  std::vector<std::string> unenforced,
                  std::vector<LooseSchema> loose)
      : answer_(std::move(answer)), unenforced_(std::move(unenforced)), loose_(std::move(loose)) {}

  [[nodiscard]] std::unique_ptr<TokenConstraint> start() const override {
    return std::make_unique<AnswerMatcher>(answer_);
  }
  [[nodiscard]] const std::vector<std::string>& unenforced() const override { return unenforced_; }

  [[nodiscard]] std::optional<std::string> find_violation(
      std::string_view function, std::string_view arguments) const override {
    for (const LooseSchema& loose : loose_) {
      if (loose.function != function) continue;
      const auto value = parse_nested_json(arguments, kMaxArgumentsDepth);
      if (!value) return "no JSON";
      return check_schema(*value, loose.schema, loose.schema).violation;
    }
    return std::nullopt;
  }

  [[nodiscard]] int64_t size_bytes() const {
    int64_t num_bytes = 0;
    if (answer_->header) num_bytes += answer_->header->size_bytes();
    if (answer_->format) num_bytes += answer_->format->size_bytes();
    for (const auto& function : answer_->functions) num_bytes += function.arguments->size_bytes();
    return num_bytes;
  }

 private:
  std::shared_ptr<const CompiledAnswer> answer_;
  std::vector<std::string> unenforced_;
  std::vector<LooseSchema> loose_;  // of functions that have something unenforced
};

// functions.NAME:IDX; the index is bounded, the parser counts for itself.
std::string header_ebnf(const std::vector<ToolDeclaration>& tools) {
  std::string names;
  for (const ToolDeclaration& tool : tools) {
    if (!names.empty()) names += " | ";
    names += ebnf_literal(tool.name);
  }
  return fmt::format("root ::= \"functions.\" ({}) {}\n", names,
                     ebnf_regex(":(0|[1-9][0-9]{0,3})"));
}

Result<std::string, GrammarError> choice_ebnf(const AnswerFormat& format) {
  if (format.choices.empty() || format.choices.size() > kMaxChoices)
    return GrammarError{fmt::format("{}: expected 1 to {} choices, got {}", format.field,
                                    kMaxChoices, format.choices.size())};
  std::string choices;
  size_t num_bytes = 0, longest = 0;
  for (const std::string& choice : format.choices) {
    num_bytes += choice.size();
    longest = std::max(longest, choice.size());
  }
  if (num_bytes > kMaxListedBytes || longest > kMaxListedValueBytes)
    return GrammarError{
        fmt::format("{}: expected choices of at most {} bytes each, {} in all, got {} and {}",
                    format.field, kMaxListedValueBytes, kMaxListedBytes, longest, num_bytes)};
  for (const std::string& choice : format.choices) {
    if (!choices.empty()) choices += " | ";
    choices += ebnf_literal(choice);
  }
  return "root ::= " + choices + "\n";
}

std::shared_ptr<const LengthPlan> shared_plan(LengthPlan plan) {
  return plan.empty() ? nullptr : std::make_shared<const LengthPlan>(std::move(plan));
}

// What XGrammar compiles; also sets `lengths`, of a schema.
Result<std::string, GrammarError> format_text(const AnswerFormat& format,
                                              std::shared_ptr<const LengthPlan>& lengths) {
  const auto named = [&](const GrammarError& error) {
    return GrammarError{fmt::format("{}: {}", format.field, error.message)};
  };
  switch (format.kind) {
    case AnswerFormat::Kind::kJsonSchema: {
      auto grammar = json_schema_grammar(format.text, SchemaPolicy::kExact);
      if (!grammar) return named(grammar.error());
      lengths = shared_plan(std::move(grammar->lengths));
      return std::move(grammar->ebnf);
    }
    case AnswerFormat::Kind::kJsonObject:
      return json_object_grammar();
    case AnswerFormat::Kind::kRegex: {
      const auto regex = rewrite_regex(format.text, RegexUse::kWholeText);
      if (!regex) return named(regex.error());
      return fmt::format("root ::= {}\n", ebnf_regex(*regex));
    }
    case AnswerFormat::Kind::kChoice:
      return choice_ebnf(format);
    case AnswerFormat::Kind::kStructuralTag: {
      auto tag = structural_tag(format.text);
      if (!tag) return named(tag.error());
      return std::move(*tag);
    }
    case AnswerFormat::Kind::kGrammar:
      break;
  }
  if (const auto problem = grammar_problem(format.text)) return named({*problem});
  return format.text;
}

}  // namespace

struct GrammarCompiler::Impl {
  const Tokenizer& tokenizer;
  int32_t vocab_size;
  TextGrammarCompiler texts;
  RecentGrammars recent;
  std::once_flag token_lengths_built;
  std::shared_ptr<const TokenLengths> token_lengths;

  const std::shared_ptr<const TokenLengths>& lengths_of_tokens() {
    std::call_once(token_lengths_built, [&] {
      token_lengths = std::make_shared<const TokenLengths>(tokenizer, vocab_size);
    });
    return token_lengths;
  }

  Result<SharedTextGrammar, GrammarError> compile_format(AnswerFormat::Kind kind,
                                                         const std::string& text) {
    if (kind == AnswerFormat::Kind::kStructuralTag) return texts.compile_structural_tag(text);
    const bool is_lark =
        kind == AnswerFormat::Kind::kGrammar && text.find("::=") == std::string::npos;
    return is_lark ? texts.compile_lark(text) : texts.compile_ebnf(text);
  }

  // The same grammar for every value and every reader of one schema: kArguments never fails.
  CompiledAnswer::Function compile_function(const ToolDeclaration& tool,
                                            std::vector<std::string>& unenforced) {
    if (!tool.parameters_json.empty()) {
      auto grammar = json_schema_grammar(tool.parameters_json, SchemaPolicy::kArguments);
      if (grammar) {
        for (const std::string& what : grammar->unenforced)
          unenforced.push_back(fmt::format("{}: {}", tool.name, what));
        auto compiled = texts.compile_ebnf(grammar->ebnf);
        if (compiled) return {tool.name, *compiled, shared_plan(std::move(grammar->lengths))};
        unenforced.push_back(
            fmt::format("{}: its schema: {}", tool.name, compiled.error().message));
      }
    }
    return {tool.name, *texts.compile_ebnf(json_object_grammar()), nullptr};
  }
};

GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer,
                                 int32_t vocab_size,
                                 const Options& options)
    : impl_(new Impl{tokenizer,
                     vocab_size,
                     TextGrammarCompiler(
                         tokenizer, vocab_size, {options.num_threads, options.cache_size_bytes}),
                     RecentGrammars(options.cache_size_bytes),
                     {},
                     {}}) {
  // What all schemas share is then compiled before the first of them comes.
  static_cast<void>(impl_->texts.compile_ebnf(json_object_grammar()));
}
GrammarCompiler::GrammarCompiler(const Tokenizer& tokenizer, int32_t vocab_size)
    : GrammarCompiler(tokenizer, vocab_size, Options{}) {}
GrammarCompiler::~GrammarCompiler() = default;

Result<std::shared_ptr<const AnswerGrammar>, GrammarError> GrammarCompiler::compile(
    const AnswerRules& rules) {
  auto answer = std::make_shared<CompiledAnswer>();
  std::vector<std::string> unenforced;
  std::vector<LooseSchema> loose;
  answer->tokenizer = &impl_->tokenizer;
  answer->call_required = rules.call_required;
  answer->max_calls = rules.max_calls;
  answer->may_think = rules.may_think;
  answer->starts_in_reasoning = rules.starts_in_reasoning;
  answer->thinking_budget = rules.thinking_budget;
  if (!rules.tools.empty()) {
    auto header = impl_->texts.compile_ebnf(header_ebnf(rules.tools));
    if (!header) return GrammarError{"tools: " + header.error().message};
    answer->header = *header;
  }
  bool has_lengths = false;
  for (const ToolDeclaration& tool : rules.tools) {
    const size_t num_unenforced = unenforced.size();
    answer->functions.push_back(impl_->compile_function(tool, unenforced));
    has_lengths = has_lengths || answer->functions.back().lengths != nullptr;
    if (unenforced.size() == num_unenforced) continue;
    if (tool.is_strict) {
      return GrammarError{
          fmt::format("tools: strict: true of function {}", unenforced[num_unenforced])};
    }
    if (auto schema = parse_nested_json(tool.parameters_json, kMaxArgumentsDepth))
      loose.push_back({tool.name, *std::move(schema)});
  }
  if (rules.format) {
    const AnswerFormat& format = *rules.format;
    const auto text = format_text(format, answer->format_lengths);
    if (!text) return text.error();
    auto compiled = impl_->compile_format(format.kind, *text);
    if (!compiled) return GrammarError{format.field + ": " + compiled.error().message};
    answer->format = *compiled;
    answer->format_field = format.field;
    has_lengths = has_lengths || answer->format_lengths != nullptr;
  }
  if (has_lengths) answer->token_lengths = impl_->lengths_of_tokens();
  const auto grammar =
      std::make_shared<CompiledGrammar>(std::move(answer), std::move(unenforced), std::move(loose));
  impl_->recent.add(rules, grammar, grammar->size_bytes());
  return std::shared_ptr<const AnswerGrammar>(grammar);
}

std::shared_ptr<const AnswerGrammar> GrammarCompiler::find(const AnswerRules& rules) {
  const bool has_text = !rules.tools.empty() || rules.format;
  return has_text ? impl_->recent.find(rules) : *compile(rules);
}

}  // namespace tandem
