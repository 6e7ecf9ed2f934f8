// The one place that knows the logging library.
#pragma once

#include <string>

namespace tandem::cli {

// "trace", "debug", "info", "warning", "error", "off"; lines go to stderr.
void set_up_logging(const std::string& level);

}  // namespace tandem::cli
