// What a request's constraint may take of the engine thread's time, which all requests share.
#pragma once

#include <chrono>
#include <utility>

namespace tandem {

// Counted in CPU time, so that a busy machine does not count against anybody.
class ConstraintBudget {
 public:
  static constexpr std::chrono::milliseconds kMost{2000};
  static constexpr std::chrono::milliseconds kEarnedPerToken{5};  // of some 0.05 that most take

  // Calls `work` and pays for it.
  template <typename Work>
  auto pay(Work&& work) {
    const std::chrono::nanoseconds begin = thread_time();
    auto result = std::forward<Work>(work)();
    left_ -= thread_time() - begin;
    return result;
  }
  void earn() {
    left_ += kEarnedPerToken;
    if (left_ > kMost) left_ = kMost;
  }
  [[nodiscard]] bool is_spent() const { return left_.count() < 0; }

 private:
  static std::chrono::nanoseconds thread_time();

  std::chrono::nanoseconds left_ = kMost;
};

}  // namespace tandem
