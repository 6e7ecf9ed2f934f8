#include "runtime/grammar/text_grammar.h"

#include <xgrammar/xgrammar.h>

#include <algorithm>
#include <exception>
#include <optional>
#include <utility>
#include <vector>

#include "runtime/base/check.h"

namespace tandem {
namespace {

xgrammar::TokenizerInfo tokenizer_info(const Tokenizer& tokenizer, int32_t vocab_size) {
  // An empty token is one that no text holds.
  const int32_t num_tokens = std::min(tokenizer.vocab_size(), vocab_size);
  std::vector<std::string> vocabulary(static_cast<size_t>(num_tokens));
  for (int32_t id = 0; id < num_tokens; ++id) {
    if (!tokenizer.is_special(id)) vocabulary[id] = tokenizer.token_bytes(id);
  }
  return xgrammar::TokenizerInfo(vocabulary, xgrammar::VocabType::RAW, vocab_size,
                                 std::vector<int32_t>{});
}

// What XGrammar says, in one line and without "[12:00:00] /path/to/source.cc:12: Check failed:
// (...) is false: ", behind which some of its checks say nothing.
std::string reason(std::string_view what) {
  constexpr std::string_view kFailed = "Check failed: ";
  constexpr std::string_view kFalse = " is false: ";
  if (what.starts_with('[')) {
    const size_t end = what.find(": ", std::min(what.find("] "), what.size()));
    if (end != std::string_view::npos) what.remove_prefix(end + 2);
  }
  if (what.starts_with(kFailed)) {
    const size_t end = what.find(kFalse);
    if (end != std::string_view::npos) what.remove_prefix(end + kFalse.size());
  }
  while (what.ends_with('\n') || what.ends_with(' ')) what.remove_suffix(1);
  return what.empty() ? "XGrammar cannot compile it" : std::string(what);
}

}  // namespace

struct TextGrammar::Impl {
  xgrammar::CompiledGrammar compiled;
  int32_t vocab_size = 0;
};

TextGrammar::TextGrammar(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
TextGrammar::~TextGrammar() = default;

int64_t TextGrammar::size_bytes() const {
  return static_cast<int64_t>(impl_->compiled.MemorySizeBytes());
}

struct TextMatcher::Impl {
  explicit Impl(std::shared_ptr<const TextGrammar> grammar_in)
      : grammar(std::move(grammar_in)), matcher(grammar->impl().compiled) {}

  std::shared_ptr<const TextGrammar> grammar;
  xgrammar::GrammarMatcher matcher;
};

TextMatcher::TextMatcher(std::shared_ptr<const TextGrammar> grammar)
    : impl_(std::make_unique<Impl>(std::move(grammar))) {}
TextMatcher::~TextMatcher() = default;
TextMatcher::TextMatcher(TextMatcher&&) noexcept = default;
TextMatcher& TextMatcher::operator=(TextMatcher&&) noexcept = default;

void TextMatcher::fill(std::span<uint32_t> mask) {
  const int32_t vocab_size = impl_->grammar->impl().vocab_size;
  TANDEM_CHECK(static_cast<int32_t>(mask.size()) == (vocab_size + 31) / 32, "a mask of one row");
  int64_t shape = static_cast<int64_t>(mask.size());
  int64_t stride = 1;
  DLTensor tensor{};
  tensor.data = mask.data();
  tensor.device = {kDLCPU, 0};
  tensor.ndim = 1;
  tensor.dtype = {kDLInt, 32, 1};
  tensor.shape = &shape;
  tensor.strides = &stride;
  try {
    impl_->matcher.FillNextTokenBitmask(&tensor);
  } catch (const std::exception&) {
    std::fill(mask.begin(), mask.end(), 0);
  }
}

bool TextMatcher::accept(int32_t token_id) {
  try {
    return impl_->matcher.AcceptToken(token_id);
  } catch (const std::exception&) {
    return false;
  }
}

bool TextMatcher::is_complete() const { return impl_->matcher.IsCompleted(); }

struct TextGrammarCompiler::Impl {
  Impl(const Tokenizer& tokenizer, int32_t vocab_size_in, const Options& options)
      : compiler(tokenizer_info(tokenizer, vocab_size_in),
                 options.num_threads,
                 true,
                 options.cache_size_bytes),
        vocab_size(vocab_size_in) {}

  template <typename Compile>
  Result<std::shared_ptr<const TextGrammar>, GrammarError> guarded(const Compile& compile) {
    try {
      auto impl = std::make_unique<TextGrammar::Impl>(TextGrammar::Impl{compile(), vocab_size});
      return std::shared_ptr<const TextGrammar>(std::make_shared<TextGrammar>(std::move(impl)));
    } catch (const std::exception& error) {
      return GrammarError{reason(error.what())};
    }
  }

  xgrammar::GrammarCompiler compiler;
  int32_t vocab_size;
};

TextGrammarCompiler::TextGrammarCompiler(const Tokenizer& tokenizer,
                                         int32_t vocab_size,
                                         const Options& options)
    : impl_(std::make_unique<Impl>(tokenizer, vocab_size, options)) {}
TextGrammarCompiler::~TextGrammarCompiler() = default;

Result<std::shared_ptr<const TextGrammar>, GrammarError> TextGrammarCompiler::compile_ebnf(
    const std::string& ebnf) {
  return impl_->guarded([&] { return impl_->compiler.CompileGrammar(ebnf); });
}

Result<std::shared_ptr<const TextGrammar>, GrammarError> TextGrammarCompiler::compile_lark(
    const std::string& lark) {
  return impl_->guarded([&] { return impl_->compiler.CompileLark(lark); });
}

Result<std::shared_ptr<const TextGrammar>, GrammarError>
TextGrammarCompiler::compile_structural_tag(const std::string& tag_json) {
  return impl_->guarded([&] { return impl_->compiler.CompileStructuralTag(tag_json); });
}

int64_t TextGrammarCompiler::cached_size_bytes() const {
  return impl_->compiler.GetCacheSizeBytes();
}

}  // namespace tandem
