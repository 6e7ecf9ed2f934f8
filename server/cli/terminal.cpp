#include "server/cli/terminal.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>
#include <utility>

namespace tandem::cli {

bool is_terminal(std::FILE* stream) {
  if (isatty(fileno(stream)) == 0) return false;
  const char* no_color = std::getenv("NO_COLOR");
  if (no_color != nullptr && *no_color != '\0') return false;
  const char* term = std::getenv("TERM");
  return term != nullptr && std::string_view(term) != "dumb";
}

std::string format_size(int64_t size_bytes) {
  static constexpr std::array<const char*, 5> kUnits = {"bytes", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(size_bytes);
  size_t unit_idx = 0;
  while (value >= 1024.0 && unit_idx + 1 < kUnits.size()) {
    value /= 1024.0;
    ++unit_idx;
  }
  return fmt::format("{:.{}f} {}", value, unit_idx == 0 ? 0 : 1, kUnits[unit_idx]);
}

std::string format_count(int64_t count) {
  const std::string digits = std::to_string(count);
  std::string result;
  for (size_t digit_idx = 0; digit_idx < digits.size(); ++digit_idx) {
    const bool starts_group = digit_idx > 0 && (digits.size() - digit_idx) % 3 == 0;
    if (starts_group && digits[digit_idx - 1] != '-') result += ',';
    result += digits[digit_idx];
  }
  return result;
}

std::string format_duration(std::chrono::duration<double> duration) {
  const double seconds = duration.count();
  if (seconds < 60.0) return fmt::format("{:.1f} s", seconds);
  const auto whole = static_cast<int64_t>(seconds);
  if (whole < 3600) return fmt::format("{} min {} s", whole / 60, whole % 60);
  return fmt::format("{} h {} min", whole / 3600, whole % 3600 / 60);
}

ProgressBar::ProgressBar(std::FILE* stream, std::string title)
    : stream_(stream),
      title_(std::move(title)),
      terminal_(is_terminal(stream)),
      start_(Clock::now()),
      last_draw_(start_) {}

ProgressBar::~ProgressBar() {
  if (terminal_ && drawn_) std::fputs("\r\x1b[K", stream_);
}

void ProgressBar::update(const Progress& progress) {
  constexpr int kBarColumns = 28;
  const auto now = Clock::now();
  const auto interval = terminal_ ? std::chrono::milliseconds(100) : std::chrono::seconds(4);
  if (now - last_draw_ < interval) return;
  last_draw_ = now;
  const double share = progress.total_bytes > 0
                           ? std::clamp(static_cast<double>(progress.done_bytes) /
                                            static_cast<double>(progress.total_bytes),
                                        0.0, 1.0)
                           : 0.0;
  const double elapsed_s = std::chrono::duration<double>(now - start_).count();
  const double gb_per_s = static_cast<double>(progress.done_bytes) / elapsed_s / 1e9;
  const std::string figures = fmt::format(
      "{:3.0f} %  {} of {}  {:.2f} GB/s  {}", 100.0 * share, format_size(progress.done_bytes),
      format_size(progress.total_bytes), gb_per_s, progress.stage);
  if (!terminal_) {
    fmt::print(stream_, "{}: {}\n", title_, figures);
  } else {
    const auto filled = static_cast<int>(share * kBarColumns);
    fmt::print(stream_, "\r{} [{:#<{}}{:.<{}}] {}\x1b[K", title_, "", filled, "",
               kBarColumns - filled, figures);
    drawn_ = true;
  }
  std::fflush(stream_);
}

void ProgressBar::finish() {
  if (terminal_ && drawn_) std::fputs("\r\x1b[K", stream_);
  drawn_ = false;
  const std::chrono::duration<double> elapsed = Clock::now() - start_;
  if (elapsed.count() > 1.0)
    fmt::print(stream_, "{}: done in {}\n", title_, format_duration(elapsed));
  std::fflush(stream_);
}

}  // namespace tandem::cli
