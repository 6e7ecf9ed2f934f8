#include "runtime/engine/constraint_budget.h"

#include <ctime>

namespace tandem {

std::chrono::nanoseconds ConstraintBudget::thread_time() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return std::chrono::seconds(now.tv_sec) + std::chrono::nanoseconds(now.tv_nsec);
}

}  // namespace tandem
