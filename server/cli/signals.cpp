#include "server/cli/signals.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>

#include <condition_variable>
#include <ctime>
#include <mutex>
#include <thread>

namespace tandem::cli {
namespace {

[[noreturn]] void end_process(int signal_number, const char* message) {
  std::fflush(stdout);
  std::fputs(message, stderr);
  std::fflush(stderr);
  std::_Exit(128 + signal_number);
}

}  // namespace

struct StopSignals::Impl {
  sigset_t signals{};
  std::mutex mutex;
  std::condition_variable changed;
  bool loading = true;
  bool stopping = false;
  bool ending = false;
  std::thread thread;

  void run() {
    constexpr timespec kPoll{.tv_sec = 0, .tv_nsec = 100'000'000};
    for (;;) {
      const int signal_number = sigtimedwait(&signals, nullptr, &kPoll);
      const std::lock_guard lock(mutex);
      if (ending) return;
      if (signal_number <= 0) continue;
      if (loading) end_process(signal_number, "\ntandem: stopped while loading\n");
      if (stopping) end_process(signal_number, "\ntandem: stopped at once\n");
      stopping = true;
      changed.notify_all();
    }
  }
};

StopSignals::StopSignals() : impl_(std::make_unique<Impl>()) {
  sigemptyset(&impl_->signals);
  sigaddset(&impl_->signals, SIGINT);
  sigaddset(&impl_->signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &impl_->signals, nullptr);
  impl_->thread = std::thread([this] { impl_->run(); });
}

StopSignals::~StopSignals() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->ending = true;
  }
  impl_->thread.join();
  pthread_sigmask(SIG_UNBLOCK, &impl_->signals, nullptr);
}

void StopSignals::loading_is_done() {
  const std::lock_guard lock(impl_->mutex);
  impl_->loading = false;
}

bool StopSignals::wait(std::chrono::milliseconds timeout) {
  std::unique_lock lock(impl_->mutex);
  return impl_->changed.wait_for(lock, timeout, [this] { return impl_->stopping; });
}

}  // namespace tandem::cli
