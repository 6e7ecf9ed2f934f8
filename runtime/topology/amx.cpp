#include "runtime/topology/amx.h"

#include <csetjmp>
#include <csignal>
#include <cstdint>

#if defined(__x86_64__) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tandem {

#if defined(__x86_64__) && defined(__linux__)

namespace {

sigjmp_buf after_trap;
void on_illegal_instruction(int) { siglongjmp(after_trap, 1); }

// True when LDTILECFG and TILERELEASE do not trap.
bool execute_tile_instruction() {
  struct sigaction action = {};
  struct sigaction previous = {};
  action.sa_handler = on_illegal_instruction;
  sigemptyset(&action.sa_mask);
  if (sigaction(SIGILL, &action, &previous) != 0) return false;
  bool works = false;
  if (sigsetjmp(after_trap, 1) == 0) {
    alignas(64) const uint8_t config[64] = {1};  // palette 1, every tile empty
    // ldtilecfg (%rax), tilerelease: as bytes, for assemblers that do not know them
    asm volatile(".byte 0xc4, 0xe2, 0x78, 0x49, 0x00\n .byte 0xc4, 0xe2, 0x78, 0x49, 0xc0"
                 :
                 : "a"(config)
                 : "memory");
    works = true;
  }
  sigaction(SIGILL, &previous, nullptr);
  return works;
}

bool probe() {
  constexpr long kArchReqXcompPerm = 0x1023;
  constexpr long kXfeatureXtiledata = 18;
  // By CPUID: clang 14's __builtin_cpu_supports knows no AMX.
  constexpr unsigned kAmxTile = 1u << 24;
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 || (edx & kAmxTile) == 0) return false;
  if (syscall(SYS_arch_prctl, kArchReqXcompPerm, kXfeatureXtiledata) != 0) return false;
  return execute_tile_instruction();
}

}  // namespace

bool amx_works() {
  static const bool works = probe();
  return works;
}

#else

bool amx_works() { return false; }

#endif

}  // namespace tandem
