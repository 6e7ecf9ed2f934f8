// What the commands print on: terminals, colours, sizes, progress.
#pragma once

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <string>

#include "runtime/base/progress.h"

namespace tandem::cli {

// A terminal that takes escape sequences (NO_COLOR and TERM=dumb say no).
bool is_terminal(std::FILE* stream);

std::string format_size(int64_t size_bytes);                 // "4.1 MiB", "14.7 GiB"
std::string format_count(int64_t count);                     // "163,840"
std::string format_duration(std::chrono::duration<double>);  // "0.4 s", "3 min 12 s"

// One line that redraws itself on a terminal; a line every few seconds elsewhere. Whatever ends
// within a second stays unannounced when the stream is no terminal.
class ProgressBar {
 public:
  ProgressBar(std::FILE* stream, std::string title);
  ~ProgressBar();  // clears a line left half drawn
  ProgressBar(const ProgressBar&) = delete;
  ProgressBar& operator=(const ProgressBar&) = delete;

  void update(const Progress& progress);
  void finish();  // leaves "title: done in 3.2 s" behind when it took more than a second

 private:
  using Clock = std::chrono::steady_clock;
  std::FILE* stream_;
  std::string title_;
  bool terminal_;
  bool drawn_ = false;
  Clock::time_point start_;
  Clock::time_point last_draw_;
};

}  // namespace tandem::cli
