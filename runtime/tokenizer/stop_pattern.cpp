#include "runtime/tokenizer/stop_pattern.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <utility>

#include "runtime/tokenizer/pcre2_owners.h"

namespace tandem {
namespace {

constexpr uint32_t kSyntax = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
constexpr uint32_t kMaxHeapKiB = 1024;
constexpr uint32_t kMaxNestedParentheses = 64;

// Steps are PCRE2's match limit, some 10 ns each.
constexpr std::array<uint32_t, 3> kStepLimits = {1'000, 10'000, 100'000};  // the first is free
constexpr int64_t kEarnedSteps = 20'000;
constexpr int64_t kMaxAllowanceSteps = 1'000'000;

}  // namespace

struct StopPattern::Impl {
  pcre2::Code code;
};

StopPattern::StopPattern(std::string text, std::unique_ptr<Impl> impl)
    : text_(std::move(text)), impl_(std::move(impl)) {}
StopPattern::~StopPattern() = default;

Result<std::shared_ptr<const StopPattern>, StopPattern::Problem> StopPattern::compile(
    std::string_view pattern) {
  const auto context = pcre2::checked(pcre2::CompileContext(pcre2_compile_context_create(nullptr)));
  pcre2_set_parens_nest_limit(context.get(), kMaxNestedParentheses);
  int error_code = 0;
  PCRE2_SIZE error_offset = 0;
  auto impl = std::make_unique<Impl>();
  impl->code.reset(pcre2_compile(pcre2::units(pattern), pattern.size(), kSyntax, &error_code,
                                 &error_offset, context.get()));
  if (impl->code == nullptr)
    return Problem{fmt::format("{} at offset {}", pcre2::error_message(error_code), error_offset)};
  uint32_t matches_empty = 0;
  pcre2_pattern_info(impl->code.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty != 0) return Problem{"the pattern matches an empty text"};
  return std::shared_ptr<const StopPattern>(new StopPattern(std::string(pattern), std::move(impl)));
}

struct StopSearch::Impl {
  pcre2::MatchData data = pcre2::make_match_data();
  pcre2::MatchContext context = pcre2::make_match_context();

  Impl() { pcre2_set_heap_limit(context.get(), kMaxHeapKiB); }
};

StopSearch::StopSearch(std::shared_ptr<const StopPattern> pattern)
    : pattern_(std::move(pattern)),
      impl_(std::make_unique<Impl>()),
      allowance_steps_(kMaxAllowanceSteps) {}
StopSearch::~StopSearch() = default;
StopSearch::StopSearch(StopSearch&&) noexcept = default;
StopSearch& StopSearch::operator=(StopSearch&&) noexcept = default;

void StopSearch::earn() {
  allowance_steps_ = std::min(allowance_steps_ + kEarnedSteps, kMaxAllowanceSteps);
}

int StopSearch::match(std::string_view text, size_t begin, uint32_t options) {
  int result = PCRE2_ERROR_MATCHLIMIT;
  for (const uint32_t limit : kStepLimits) {
    if (limit > kStepLimits.front()) {
      if (allowance_steps_ < limit) break;
      allowance_steps_ -= limit;
    }
    pcre2_set_match_limit(impl_->context.get(), limit);
    result = pcre2_match(pattern_->impl_->code.get(), pcre2::units(text), text.size(), begin,
                         options | PCRE2_NO_UTF_CHECK, impl_->data.get(), impl_->context.get());
    if (result != PCRE2_ERROR_MATCHLIMIT) break;
  }
  return result;
}

StopSearch::Outcome StopSearch::find(std::string_view text, size_t begin, Span& found) {
  const int result = match(text, begin, 0);
  if (result == PCRE2_ERROR_NOMATCH) return Outcome::kNone;
  if (result < 0) return Outcome::kTooCostly;
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(impl_->data.get());
  found.end = offsets[1];
  found.begin = std::clamp(offsets[0], begin, std::max(begin, found.end));
  return Outcome::kFound;
}

StopSearch::Outcome StopSearch::find_beginning(std::string_view text, size_t begin, size_t& found) {
  const int result = match(text, begin, PCRE2_PARTIAL_HARD);
  found = text.size();
  if (result == PCRE2_ERROR_NOMATCH) return Outcome::kNone;
  if (result != PCRE2_ERROR_PARTIAL && result < 0) return Outcome::kTooCostly;
  found = std::clamp(pcre2_get_ovector_pointer(impl_->data.get())[0], begin, text.size());
  return Outcome::kFound;
}

}  // namespace tandem
