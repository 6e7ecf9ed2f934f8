// Where KV pages may be found besides in the model's memory, as the scheduler asks.
#pragma once

#include <cstdint>

#include "runtime/kv/page_hash.h"

namespace tandem {

enum class PagePresence {
  kAbsent,
  kComing,  // not yet at hand: ask again at the next step
  kNoRoom,  // the same, and what is behind it need not be asked for yet
  kThere,   // and stays so through this step
};

class PageSource {
 public:
  virtual ~PageSource() = default;
  // Asking brings a page that can be had on its way. What is not asked for at every step may be
  // dropped again.
  virtual PagePresence look_up(PageHash hash) = 0;
  // Pages behind the next one of a prompt that are worth asking for along with it.
  [[nodiscard]] virtual int32_t read_ahead_pages() const = 0;
};

}  // namespace tandem
