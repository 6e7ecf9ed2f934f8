#include "tests/gpu/simt/fiber.h"

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

extern "C" void tandem_switch_stack(void** save_stack_pointer, void* load_stack_pointer);
extern "C" void tandem_enter_fiber();

// The switch saves what the System V ABI wants preserved and the stack pointer, and loads the other
// side's. A fresh fiber's registers hold what it shall call, and with what.
asm(R"(
.text
.type tandem_switch_stack, @function
tandem_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size tandem_switch_stack, . - tandem_switch_stack

.type tandem_enter_fiber, @function
tandem_enter_fiber:
  movq %r12, %rdi
  callq *%rbx
  ud2
.size tandem_enter_fiber, . - tandem_enter_fiber
)");

namespace tandem::gpu::simt {
namespace {
constexpr size_t kStackSizeBytes = 256 * 1024;  // AddressSanitizer's frames are large
}

Fiber::~Fiber() {
#if defined(__SANITIZE_THREAD__)
  if (thread_state_ != nullptr) __tsan_destroy_fiber(thread_state_);
#endif
}

void Fiber::start(Entry entry, void* argument) {
  if (stack_ == nullptr) {
    stack_.reset(new std::byte[kStackSizeBytes]);
#if defined(__SANITIZE_THREAD__)
    thread_state_ = __tsan_create_fiber(0);
#endif
  }
  entry_ = entry;
  argument_ = argument;
  // Upwards: r15 r14 r13 r12 rbx rbp, the address that `ret` takes; then an aligned stack.
  const auto end = reinterpret_cast<uintptr_t>(stack_.get() + kStackSizeBytes) / 16 * 16;
  auto* top = reinterpret_cast<uintptr_t*>(end) - 7;
  top[3] = reinterpret_cast<uintptr_t>(this);
  top[4] = reinterpret_cast<uintptr_t>(&Fiber::enter);
  top[5] = 0;
  top[6] = reinterpret_cast<uintptr_t>(&tandem_enter_fiber);
  stack_pointer_ = top;
}

void Fiber::enter(Fiber* fiber) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &fiber->scheduler_stack_,
                                  &fiber->scheduler_stack_size_bytes_);
#endif
  fiber->entry_(fiber->argument_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(nullptr, fiber->scheduler_stack_,
                                 fiber->scheduler_stack_size_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(fiber->scheduler_thread_state_, 0);
#endif
  tandem_switch_stack(&fiber->stack_pointer_, fiber->scheduler_stack_pointer_);
}

void Fiber::resume() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack_, stack_.get(), kStackSizeBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  scheduler_thread_state_ = __tsan_get_current_fiber();
  __tsan_switch_to_fiber(thread_state_, 0);
#endif
  tandem_switch_stack(&scheduler_stack_pointer_, stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack_, nullptr, nullptr);
#endif
}

void Fiber::suspend() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&fake_stack_, scheduler_stack_, scheduler_stack_size_bytes_);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(scheduler_thread_state_, 0);
#endif
  tandem_switch_stack(&stack_pointer_, scheduler_stack_pointer_);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack_, &scheduler_stack_, &scheduler_stack_size_bytes_);
#endif
}

}  // namespace tandem::gpu::simt
