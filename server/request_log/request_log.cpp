#include "server/request_log/request_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstring>
#include <mutex>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/errors.h"

namespace tandem::server {

struct RequestLog::Impl {
  using Clock = std::chrono::steady_clock;

  const std::string path;
  const std::function<void()> on_dropped;
  int fd = -1;           // of the thread, once it runs
  bool is_torn = false;  // the file ends inside a line
  std::mutex mutex;
  std::condition_variable has_lines;
  struct Line {
    size_t size_bytes;
    std::function<std::string()> make;
  };
  std::vector<Line> lines;
  size_t waiting_bytes = 0;
  bool stopping = false;
  Clock::time_point next_warning;
  std::thread thread;

  Impl(std::string path_in, std::function<void()> on_dropped_in)
      : path(std::move(path_in)), on_dropped(std::move(on_dropped_in)) {}
  bool open_file();
  [[nodiscard]] bool is_still_there() const;
  void run();
  bool write_line(const std::string& line);
  void drop();
  void warn(const std::string& message);
};

// Readable by the owner alone: it may hold what people ask.
bool RequestLog::Impl::open_file() {
  if (fd >= 0) close(fd);
  fd = open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  is_torn = false;
  return fd >= 0;
}

// False when the name leads elsewhere by now: somebody has rotated the file away.
bool RequestLog::Impl::is_still_there() const {
  struct stat ours {};
  struct stat named {};
  return fd >= 0 && fstat(fd, &ours) == 0 && stat(path.c_str(), &named) == 0 &&
         ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

// At most one a minute, from the writing thread.
void RequestLog::Impl::warn(const std::string& message) {
  const auto now = Clock::now();
  if (now < next_warning) return;
  next_warning = now + std::chrono::minutes(1);
  spdlog::warn("--log-requests {}: {}", path, message);
}

// False when the disk does not take all of it. What a full disk cut short stays a line of its own.
bool RequestLog::Impl::write_line(const std::string& line) {
  if (fd < 0) return false;
  const std::string whole = (is_torn ? "\n" : "") + line + '\n';
  std::string_view text = whole;
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      warn(std::strerror(errno));
      return false;
    }
    if (written > 0) is_torn = text[static_cast<size_t>(written) - 1] != '\n';
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

void RequestLog::Impl::drop() {
  if (on_dropped) on_dropped();
}

void RequestLog::Impl::run() {
  std::vector<Line> taken;
  while (true) {
    {
      std::unique_lock lock(mutex);
      has_lines.wait(lock, [&] { return stopping || !lines.empty(); });
      if (lines.empty()) return;
      taken.swap(lines);
    }
    if (!is_still_there() && !open_file()) warn(std::strerror(errno));
    size_t done_bytes = 0;
    for (const Line& line : taken) {
      if (!write_line(line.make())) drop();
      done_bytes += line.size_bytes;
    }
    taken.clear();
    const std::lock_guard lock(mutex);
    waiting_bytes -= done_bytes;
  }
}

RequestLog::RequestLog(std::string path, std::function<void()> on_dropped)
    : impl_(std::make_unique<Impl>(std::move(path), std::move(on_dropped))) {
  if (!impl_->open_file()) {
    throw ConfigError(fmt::format("--log-requests {}: expected a file that can be written, got: {}",
                                  impl_->path, std::strerror(errno)));
  }
  impl_->thread = std::thread([log = impl_.get()] { log->run(); });
}

RequestLog::~RequestLog() {
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stopping = true;
  }
  impl_->has_lines.notify_one();
  impl_->thread.join();
  if (impl_->fd >= 0) close(impl_->fd);
}

bool RequestLog::write(size_t size_bytes, std::function<std::string()> make_line) {
  {
    const std::lock_guard lock(impl_->mutex);
    if (impl_->lines.size() >= kMaxWaitingLines ||
        impl_->waiting_bytes + size_bytes > kMaxWaitingBytes) {
      impl_->drop();
      return false;
    }
    impl_->waiting_bytes += size_bytes;
    impl_->lines.push_back({size_bytes, std::move(make_line)});
  }
  impl_->has_lines.notify_one();
  return true;
}

}  // namespace tandem::server
