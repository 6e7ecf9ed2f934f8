#include "runtime/grammar/pattern_search.h"

#include "runtime/tokenizer/pcre2_owners.h"

namespace tandem {
namespace {

// Somebody else's pattern: it may not take long, nor much memory.
constexpr uint32_t kMaxMatchSteps = 1'000'000;
constexpr uint32_t kMaxHeapKiB = 8 << 10;
constexpr size_t kMaxPatternBytes = 64 << 10;

// Where PCRE2 reads a pattern otherwise than ECMAScript does.
constexpr uint32_t kEcmaScript = PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_MATCH_UNSET_BACKREF |
                                 PCRE2_ALLOW_EMPTY_CLASS | PCRE2_ALT_BSUX | PCRE2_NEVER_BACKSLASH_C;

}  // namespace

struct PatternSearch::Impl {
  pcre2::Code code;
  pcre2::MatchData data = pcre2::make_match_data();
  pcre2::MatchContext context = pcre2::make_match_context();
};

PatternSearch::PatternSearch(std::string_view pattern) : impl_(std::make_unique<Impl>()) {
  if (pattern.size() > kMaxPatternBytes) return;
  int error_code = 0;
  PCRE2_SIZE error_offset = 0;
  impl_->code.reset(pcre2_compile(pcre2::units(pattern), pattern.size(), kEcmaScript, &error_code,
                                  &error_offset, nullptr));
  pcre2_set_match_limit(impl_->context.get(), kMaxMatchSteps);
  pcre2_set_heap_limit(impl_->context.get(), kMaxHeapKiB);
}

PatternSearch::~PatternSearch() = default;

std::optional<bool> PatternSearch::matches_in(std::string_view text) const {
  if (impl_->code == nullptr) return std::nullopt;
  const int result = pcre2_match(impl_->code.get(), pcre2::units(text), text.size(), 0, 0,
                                 impl_->data.get(), impl_->context.get());
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) return std::nullopt;
  return true;
}

}  // namespace tandem
