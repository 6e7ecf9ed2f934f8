// Why something cannot be turned into a grammar, in words for the client that asked for it.
#pragma once

#include <string>

namespace tandem {

struct GrammarError {
  std::string message;
};

}  // namespace tandem
