// Vocabularies for the tests of this folder: small ones made on the spot, the real one if at hand.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/tokenizer.h"
#include "tests/support/byte_vocabulary.h"

namespace tandem::tests {

std::string sha256_hex(std::string_view bytes);
std::string read_text_file(const std::filesystem::path& path);

// TANDEM_SHARED_DIR, else ../shared beside the source tree; nothing when `file` is not there.
std::optional<std::filesystem::path> shared_file(std::string_view file);
// The vocabulary of the K2 family from the shared folder; null when it is not there.
const Tokenizer* real_tokenizer();

// Python's str(ids): "[1, 2, 3]".
std::string python_list(const std::vector<int32_t>& ids);

}  // namespace tandem::tests
