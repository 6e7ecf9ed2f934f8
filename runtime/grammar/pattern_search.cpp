#include "runtime/grammar/pattern_search.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

namespace tandem {
namespace {

// Somebody else's pattern: it may not take long, nor much memory.
constexpr uint32_t kMaxMatchSteps = 1'000'000;
constexpr uint32_t kMaxHeapKiB = 8 << 10;
constexpr size_t kMaxPatternBytes = 64 << 10;

// Where PCRE2 reads a pattern otherwise than ECMAScript does.
constexpr uint32_t kEcmaScript = PCRE2_UTF | PCRE2_DOLLAR_ENDONLY | PCRE2_MATCH_UNSET_BACKREF |
                                 PCRE2_ALLOW_EMPTY_CLASS | PCRE2_ALT_BSUX | PCRE2_NEVER_BACKSLASH_C;

const PCRE2_UCHAR* units(std::string_view text) {
  return reinterpret_cast<const PCRE2_UCHAR*>(text.data());
}

}  // namespace

struct PatternSearch::Impl {
  pcre2_code* code = nullptr;
  pcre2_match_data* data = nullptr;
  pcre2_match_context* context = nullptr;

  ~Impl() {
    pcre2_match_context_free(context);
    pcre2_match_data_free(data);
    pcre2_code_free(code);
  }
};

PatternSearch::PatternSearch(std::string_view pattern) : impl_(std::make_unique<Impl>()) {
  if (pattern.size() > kMaxPatternBytes) return;
  int error_code = 0;
  PCRE2_SIZE error_offset = 0;
  impl_->code = pcre2_compile(units(pattern), pattern.size(), kEcmaScript, &error_code,
                              &error_offset, nullptr);
  impl_->data = pcre2_match_data_create(1, nullptr);
  impl_->context = pcre2_match_context_create(nullptr);
  if (impl_->context == nullptr) return;
  pcre2_set_match_limit(impl_->context, kMaxMatchSteps);
  pcre2_set_heap_limit(impl_->context, kMaxHeapKiB);
}

PatternSearch::~PatternSearch() = default;

std::optional<bool> PatternSearch::matches_in(std::string_view text) const {
  if (!impl_->code || !impl_->data || !impl_->context) return std::nullopt;
  const int result =
      pcre2_match(impl_->code, units(text), text.size(), 0, 0, impl_->data, impl_->context);
  if (result == PCRE2_ERROR_NOMATCH) return false;
  if (result < 0) return std::nullopt;
  return true;
}

}  // namespace tandem
