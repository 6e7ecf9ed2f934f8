// A certificate for localhost that signs itself, made anew for each test.
#pragma once

#include <string>

namespace tandem::tests {

struct TlsFiles {
  std::string certificate_path;
  std::string private_key_path;
};

// PEM files in `folder`, which exists.
TlsFiles write_certificate(const std::string& folder);

}  // namespace tandem::tests
