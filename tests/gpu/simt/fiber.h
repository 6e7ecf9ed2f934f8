// A stack of its own for every emulated thread, and the switch between them. The C library's
// swapcontext makes a system call a switch; this one takes nanoseconds. x86-64 only, as the
// program is.
#pragma once

#include <cstddef>
#include <memory>

namespace tandem::gpu::simt {

class Fiber {
 public:
  using Entry = void (*)(void* argument);

  Fiber() = default;
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  // Prepares entry(argument) to run at the next resume(). What ran before has returned.
  void start(Entry entry, void* argument);
  void resume();   // from the scheduler, until the fiber suspends or its entry returns
  void suspend();  // from the fiber, back to the scheduler

 private:
  static void enter(Fiber* fiber);

  std::unique_ptr<std::byte[]> stack_;
  void* stack_pointer_ = nullptr;
  void* scheduler_stack_pointer_ = nullptr;
  Entry entry_ = nullptr;
  void* argument_ = nullptr;
  // What the sanitizers want to know of a switch.
  void* fake_stack_ = nullptr;
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_stack_ = nullptr;
  size_t scheduler_stack_size_bytes_ = 0;
  void* thread_state_ = nullptr;
  void* scheduler_thread_state_ = nullptr;
};

}  // namespace tandem::gpu::simt
