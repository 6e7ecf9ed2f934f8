// What an engine has been told of sleeping and waking, and how far it is. Bookkeeping without
// threads: the engine's lock guards it.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "runtime/base/model_memory.h"

namespace tandem {

// What becomes of the requests of an engine that falls asleep.
enum class SleepMode {
  kWait,   // they are answered first
  kKeep,   // they stop where they are, and go on behind the waking
  kAbort,  // they end with what there is
};

enum class SleepState { kAwake, kFallingAsleep, kAsleep, kWaking };
// Memory is missing.
inline bool is_sleeping(SleepState state) {
  return state == SleepState::kAsleep || state == SleepState::kWaking;
}

struct SleepOutcome {
  enum class Kind {
    kDone,
    kCalledOff,  // of a sleep: the engine was woken before it had begun
    kNotWoken,   // memory is missing: it sleeps on, and may be told again
    kEnded,      // the engine has failed, or is being shut down
  };
  Kind kind = Kind::kDone;
  std::string message = {};  // but of kDone
};
// Called once, on the engine's thread or by the call that gave the order; may not wait.
using SleepDone = std::function<void(const SleepOutcome&)>;

class SleepControl {
 public:
  struct Order {
    ModelMemory memory;
    SleepMode mode = SleepMode::kWait;  // of a sleep
    std::vector<SleepDone> done;
  };

  [[nodiscard]] SleepState state() const;
  [[nodiscard]] const ModelMemory& released() const { return released_; }
  // Requests taken before the sleep live on through it.
  [[nodiscard]] bool keeps_requests() const { return mode_ == SleepMode::kKeep; }
  // Nothing will be missing when all has been done that was ordered: nobody need order a waking.
  [[nodiscard]] bool ends_awake() const;
  // A sleep waits for requests; those that belong to answers begun before are taken.
  [[nodiscard]] bool waits() const {
    return sleep_order_ && sleep_order_->mode == SleepMode::kWait && !released_.any();
  }

  // One that has not begun yet and this are one order: the memory of both, and the mode that comes
  // later in SleepMode.
  void order_sleep(const ModelMemory& memory, SleepMode mode, SleepDone done);
  // Calls a sleep off that has not begun. Returns whom to tell, and what.
  struct Call {
    SleepDone done;
    SleepOutcome outcome;
  };
  std::vector<Call> order_waking(const ModelMemory& memory, SleepDone done);

  // On the engine's thread: what is to be done now; one of the two, and then it is being done.
  [[nodiscard]] bool has_waking() const { return waking_order_.has_value(); }
  [[nodiscard]] bool has_sleep(bool is_idle) const {
    return sleep_order_ && !waking_order_ && (!waits() || is_idle);
  }
  Order begin_waking();  // names nothing but what is released
  Order begin_sleep();
  void end_waking(const ModelMemory& restored);
  void end_sleep(const ModelMemory& released);

  // All orders that have not begun, for an engine that ends.
  std::vector<SleepDone> take_all();

 private:
  std::optional<Order> sleep_order_;
  std::optional<Order> waking_order_;
  bool is_falling_ = false;
  std::optional<ModelMemory> waking_;  // what is being woken
  SleepMode mode_ = SleepMode::kWait;  // of the last sleep
  ModelMemory released_;
};

}  // namespace tandem
