#include "runtime/tokenizer/piece_splitter.h"

#include <stdexcept>
#include <string>

#include "runtime/base/errors.h"
#include "runtime/tokenizer/pcre2_owners.h"

namespace tandem {
namespace {

#define SPACE \
  R"(\t-\r\x{20}\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000})"
// Letters of both cases' classes; the look-ahead is the `&&[^\p{Han}]` of the original.
#define UNCASED R"((?!\p{sc:Han})[\p{Lm}\p{Lo}\p{M}])"
#define PREFIX R"([^\r\n\p{L}\p{N}]?)"
#define CONTRACTION R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?+)"
// An upper-case letter given back could not begin the lower-case run, so those runs are possessive;
// uncased letters can be given back, one by one.
constexpr const char kPattern[] =
    R"([\p{sc:Han}]++)"
    "|" PREFIX R"((?:[A-Z]++|[\p{Lu}\p{Lt}]++|)" UNCASED R"()*(?:[a-z]++|\p{Ll}++|)" UNCASED
    ")++" CONTRACTION "|" PREFIX R"((?:[\p{Lu}\p{Lt}]++|)" UNCASED R"()++(?:\p{Ll}++|)" UNCASED
    ")*+" CONTRACTION R"(|\p{N}{1,3}+)"
    "| ?[^" SPACE R"(\p{L}\p{N}]++[\r\n]*+)"
    "|[" SPACE R"(]*[\r\n]++)"
    "|[" SPACE "]+(?![^" SPACE
    "])"
    "|[" SPACE "]++";
#undef SPACE
#undef UNCASED
#undef PREFIX
#undef CONTRACTION

// A run is at most 25,001 characters (spec §4.5) and leaves well under 200 bytes of backtracking a
// character.
constexpr size_t kJitStackStartBytes = 32 << 10;
constexpr size_t kJitStackMaxBytes = 16 << 20;

// What a match writes to: one per thread, since pcre2_code alone is shared.
struct MatchScratch {
  pcre2::MatchData data = pcre2::make_match_data();
  pcre2::JitStack stack{pcre2_jit_stack_create(kJitStackStartBytes, kJitStackMaxBytes, nullptr)};
  pcre2::MatchContext context = pcre2::make_match_context();

  MatchScratch() {
    pcre2_set_match_limit(context.get(), UINT32_MAX);
    // A null stack is legal: PCRE2 then uses 32 KiB of the machine's.
    pcre2_jit_stack_assign(context.get(), nullptr, stack.get());
  }
};

}  // namespace

struct PieceSplitter::Impl {
  pcre2::Code code;
};

PieceSplitter::PieceSplitter() : impl_(std::make_unique<Impl>()) {
  int error_code = 0;
  PCRE2_SIZE error_offset = 0;
  const std::string_view pattern(kPattern);
  impl_->code.reset(pcre2_compile(pcre2::units(pattern), pattern.size(),
                                  PCRE2_UTF | PCRE2_UCP | PCRE2_ANCHORED, &error_code,
                                  &error_offset, nullptr));
  if (impl_->code == nullptr) {
    throw LoadError("tokenizer: PCRE2 does not take the split pattern at offset " +
                    std::to_string(error_offset) + ": " + pcre2::error_message(error_code) +
                    " (expected PCRE2 10.40 or later with Unicode)");
  }
  // Without a JIT (forbidden executable memory) the interpreter gives the same pieces, slower.
  pcre2_jit_compile(impl_->code.get(), PCRE2_JIT_COMPLETE);
}

PieceSplitter::~PieceSplitter() = default;

size_t PieceSplitter::next_piece_size(std::string_view text, size_t offset) const {
  thread_local MatchScratch scratch;
  const auto match = [&](uint32_t options) {
    return pcre2_match(impl_->code.get(), pcre2::units(text), text.size(), offset,
                       PCRE2_NO_UTF_CHECK | options, scratch.data.get(), scratch.context.get());
  };
  int result = match(0);
  if (result == PCRE2_ERROR_JIT_STACKLIMIT) result = match(PCRE2_NO_JIT);
  if (result < 0) throw std::runtime_error("tokenizer: PCRE2: " + pcre2::error_message(result));
  const PCRE2_SIZE* ends = pcre2_get_ovector_pointer(scratch.data.get());
  return ends[1] - offset;
}

}  // namespace tandem
