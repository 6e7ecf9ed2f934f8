// Lines of standard input that Ctrl-C can interrupt (std::getline cannot be).
#pragma once

#include <string>

namespace tandem::cli {

class LineInput {
 public:
  enum class Event { kLine, kInterrupted, kEnd };
  // The next line without its end; a last line without one counts.
  Event read_line(std::string& line);
  std::string read_all();  // up to the end of input

 private:
  enum class Fill { kMore, kInterrupted, kEnd };
  Fill fill();
  std::string pending_;
};

}  // namespace tandem::cli
