#include "server/cli/line_input.h"

#include <unistd.h>

#include <array>
#include <cerrno>
#include <utility>

namespace tandem::cli {

LineInput::Event LineInput::read_line(std::string& line) {
  for (;;) {
    const size_t end = pending_.find('\n');
    if (end != std::string::npos) {
      line = pending_.substr(0, end);
      if (!line.empty() && line.back() == '\r') line.pop_back();
      pending_.erase(0, end + 1);
      return Event::kLine;
    }
    switch (fill()) {
      case Fill::kMore:
        break;
      case Fill::kInterrupted:
        pending_.clear();
        return Event::kInterrupted;
      case Fill::kEnd:
        if (pending_.empty()) return Event::kEnd;
        pending_.push_back('\n');
        break;
    }
  }
}

std::string LineInput::read_all() {
  while (fill() == Fill::kMore) {
  }
  return std::move(pending_);
}

LineInput::Fill LineInput::fill() {
  std::array<char, 4096> piece{};
  const ssize_t num_read = ::read(STDIN_FILENO, piece.data(), piece.size());
  if (num_read > 0) {
    pending_.append(piece.data(), static_cast<size_t>(num_read));
    return Fill::kMore;
  }
  return num_read < 0 && errno == EINTR ? Fill::kInterrupted : Fill::kEnd;
}

}  // namespace tandem::cli
