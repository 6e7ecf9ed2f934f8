// What a sequence may say next, beyond what its sampler decides: asked before every choice, told of
// every choice. Implemented by runtime/grammar and by token_lists.h.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

namespace tandem {

class TokenConstraint {
 public:
  struct Allowance {
    enum class Tokens { kAll, kMasked, kNone };
    Tokens tokens = Tokens::kAll;
    bool may_end = true;  // a stop token may be chosen, whatever the mask says of it
  };

  virtual ~TokenConstraint() = default;
  // With kMasked, bit v % 32 of mask[v / 32] says whether token v may follow, and one of them may.
  // kNone without may_end is a dead end.
  virtual Allowance allow(std::span<uint32_t> mask) = 0;
  // A token that allow() admitted, no stop token. False when it does not fit after all.
  [[nodiscard]] virtual bool accept(int32_t token_id) = 0;
  // What is being enforced, for the message of a dead end: "the arguments of function 'f'".
  [[nodiscard]] virtual std::string feature() const = 0;
};

}  // namespace tandem
