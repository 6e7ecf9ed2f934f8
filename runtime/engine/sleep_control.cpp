#include "runtime/engine/sleep_control.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace tandem {
namespace {

void merge(std::optional<SleepControl::Order>& order,
           const ModelMemory& memory,
           SleepMode mode,
           SleepDone done) {
  if (!order) order = SleepControl::Order{};
  order->memory = order->memory | memory;
  order->mode = std::max(order->mode, mode);
  if (done) order->done.push_back(std::move(done));
}

}  // namespace

SleepState SleepControl::state() const {
  if (waking_ || (waking_order_ && released_.any())) return SleepState::kWaking;
  if (released_.any()) return SleepState::kAsleep;
  return sleep_order_ || is_falling_ ? SleepState::kFallingAsleep : SleepState::kAwake;
}

bool SleepControl::ends_awake() const {
  if (sleep_order_ || is_falling_) return false;
  ModelMemory woken = waking_.value_or(ModelMemory{});
  if (waking_order_) woken = woken | waking_order_->memory;
  woken.host_weights = woken.weights;
  return !(released_ - woken).any();
}

void SleepControl::order_sleep(const ModelMemory& memory, SleepMode mode, SleepDone done) {
  merge(sleep_order_, memory, mode, std::move(done));
}

std::vector<SleepControl::Call> SleepControl::order_waking(const ModelMemory& memory,
                                                           SleepDone done) {
  std::vector<Call> calls;
  if (sleep_order_) {
    for (SleepDone& sleeper : sleep_order_->done) {
      calls.push_back({std::move(sleeper),
                       {SleepOutcome::Kind::kCalledOff, "the model was woken before it slept"}});
    }
    sleep_order_.reset();
  }
  if (released_.any() || is_falling_) {
    merge(waking_order_, memory, SleepMode::kWait, std::move(done));
  } else if (done) {
    calls.push_back({std::move(done), {}});
  }
  return calls;
}

SleepControl::Order SleepControl::begin_waking() {
  Order order = std::move(*waking_order_);
  waking_order_.reset();
  order.memory.host_weights = order.memory.weights;
  order.memory = order.memory & released_;
  waking_ = order.memory;
  return order;
}

SleepControl::Order SleepControl::begin_sleep() {
  is_falling_ = true;
  Order order = std::move(*sleep_order_);
  sleep_order_.reset();
  // Asleep already, it waits for nobody.
  if (order.mode != SleepMode::kWait || !released_.any()) mode_ = order.mode;
  return order;
}

void SleepControl::end_waking(const ModelMemory& restored) {
  waking_.reset();
  released_ = released_ - restored;
}

void SleepControl::end_sleep(const ModelMemory& released) {
  is_falling_ = false;
  released_ = released_ | released;
}

std::vector<SleepDone> SleepControl::take_all() {
  std::vector<SleepDone> all;
  for (std::optional<Order>* order : {&sleep_order_, &waking_order_}) {
    if (!*order) continue;
    std::move((*order)->done.begin(), (*order)->done.end(), std::back_inserter(all));
    order->reset();
  }
  return all;
}

}  // namespace tandem
