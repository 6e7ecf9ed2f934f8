// What threads wait on: they spin for a while, then sleep until it moves.
#pragma once

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <climits>
#include <cstdint>

namespace tandem {

class WaitWord {
 public:
  [[nodiscard]] uint32_t value() const { return value_.load(std::memory_order_acquire); }

  // Adds one and wakes who sleeps: a system call only if somebody does. What happened before is
  // visible to those who see the new value.
  void advance() {
    // Sequentially consistent on both sides: either the sleeper is counted before this looks, or
    // it sees the new value before it sleeps.
    value_.fetch_add(1, std::memory_order_seq_cst);
    if (num_sleepers_.load(std::memory_order_seq_cst) != 0) futex(FUTEX_WAKE_PRIVATE, INT_MAX);
  }

  // Returns when the value differs from `seen`. `spin(waited)` says, with the time waited so far,
  // whether to go on spinning; from the first no on the thread sleeps.
  template <typename Spin>
  void wait_while(uint32_t seen, const Spin& spin) {
    if (spin_while(seen, spin)) sleep_while(seen);
  }

 private:
  // True if the value is still `seen`.
  template <typename Spin>
  bool spin_while(uint32_t seen, const Spin& spin) const {
    constexpr int kPausesPerLook = 32;  // a look at the clock costs as much as a few pauses
    const auto begin = std::chrono::steady_clock::now();
    do {
      for (int pause = 0; pause < kPausesPerLook; ++pause) {
        if (value() != seen) return false;
        pause_processor();
      }
    } while (spin(std::chrono::steady_clock::now() - begin));
    return value() == seen;
  }
  static void pause_processor() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
  }
  void sleep_while(uint32_t seen) {
    num_sleepers_.fetch_add(1, std::memory_order_seq_cst);
    while (value_.load(std::memory_order_seq_cst) == seen) futex(FUTEX_WAIT_PRIVATE, seen);
    num_sleepers_.fetch_sub(1, std::memory_order_relaxed);
  }
  void futex(int operation, uint32_t value) {
    static_assert(sizeof(value_) == sizeof(uint32_t), "a futex is a plain 32-bit word");
    syscall(SYS_futex, &value_, operation, value, nullptr, nullptr, 0);
  }

  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> num_sleepers_{0};
};

}  // namespace tandem
