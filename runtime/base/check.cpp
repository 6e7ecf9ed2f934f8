#include "runtime/base/check.h"

#include <cstdio>
#include <cstdlib>

namespace tandem {

void check_failed(const char* expression, const char* file, int line, const char* message) {
  std::fprintf(stderr, "tandem: internal error at %s:%d: %s (%s)\n", file, line, message,
               expression);
  std::abort();
}

}  // namespace tandem
