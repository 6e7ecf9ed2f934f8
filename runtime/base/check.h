// TANDEM_CHECK: a programmer's error ends the process with a message. Never for what a user can
// cause.
#pragma once

namespace tandem {
[[noreturn]] void check_failed(const char* expression,
                               const char* file,
                               int line,
                               const char* message);
}  // namespace tandem

#define TANDEM_CHECK(condition, message)                               \
  do {                                                                 \
    if (!(condition)) [[unlikely]]                                     \
      ::tandem::check_failed(#condition, __FILE__, __LINE__, message); \
  } while (false)

#ifdef NDEBUG
#define TANDEM_ASSERT(condition, message) \
  do {                                    \
  } while (false)
#else
#define TANDEM_ASSERT(condition, message) TANDEM_CHECK(condition, message)
#endif
