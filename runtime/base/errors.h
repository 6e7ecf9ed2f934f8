// Start-up errors: thrown while loading, caught once in main(), which prints the message and exits
// with 1.
#pragma once

#include <stdexcept>
#include <string>

namespace tandem {

// The checkpoint cannot be read: a missing file, a lying header, a misshapen tensor (expected and
// actual named).
struct LoadError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// A configuration value (config.json, command line) is missing, of the wrong type or out of range.
struct ConfigError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

}  // namespace tandem
