// Owners of PCRE2's objects and its messages, for the source files that search with it.
#pragma once

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <memory>
#include <new>
#include <string>
#include <string_view>

namespace tandem::pcre2 {

template <auto kFree>
struct Free {
  template <typename Object>
  void operator()(Object* object) const {
    kFree(object);
  }
};
using Code = std::unique_ptr<pcre2_code, Free<pcre2_code_free>>;
using CompileContext = std::unique_ptr<pcre2_compile_context, Free<pcre2_compile_context_free>>;
using MatchData = std::unique_ptr<pcre2_match_data, Free<pcre2_match_data_free>>;
using MatchContext = std::unique_ptr<pcre2_match_context, Free<pcre2_match_context_free>>;
using JitStack = std::unique_ptr<pcre2_jit_stack, Free<pcre2_jit_stack_free>>;

// Null where there is no memory, as PCRE2 says it.
template <typename Owner>
Owner checked(Owner owner) {
  if (owner == nullptr) throw std::bad_alloc();
  return owner;
}
// Where the whole match begins and ends.
inline MatchData make_match_data() {
  return checked(MatchData(pcre2_match_data_create(1, nullptr)));
}
inline MatchContext make_match_context() {
  return checked(MatchContext(pcre2_match_context_create(nullptr)));
}

inline PCRE2_SPTR units(std::string_view text) { return reinterpret_cast<PCRE2_SPTR>(text.data()); }

inline std::string error_message(int error_code) {
  std::array<PCRE2_UCHAR, 256> buffer{};
  pcre2_get_error_message(error_code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

}  // namespace tandem::pcre2
