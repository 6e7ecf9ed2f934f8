// SIGINT and SIGTERM as events: a thread of its own waits for them, nothing runs in a handler.
#pragma once

#include <chrono>
#include <memory>

namespace tandem::cli {

// Construct before any other thread exists: every later thread inherits the blocked signals.
class StopSignals {
 public:
  StopSignals();
  ~StopSignals();
  StopSignals(const StopSignals&) = delete;
  StopSignals& operator=(const StopSignals&) = delete;

  // While loading there is nothing to finish: the first signal ends the process. Afterwards the
  // first one is for wait(), and the second ends the process.
  void loading_is_done();

  // True as soon as a signal has come, false after `timeout`.
  bool wait(std::chrono::milliseconds timeout);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::cli
