// One KV page as a file: 40 bytes that say what it is, then the page.
//
//   0  magic "tandemk1": its last byte is the version of this layout
//   8  size of the page in bytes
//  16  hash of the page (PageHash: low, high)
//  32  checksum of the page
// All little-endian 64-bit words.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>

#include "runtime/kv/page_hash.h"

namespace tandem {

inline constexpr int64_t kPageFileHeaderBytes = 40;

enum class PageRead {
  kDone,
  kMissing,
  kDamaged,
  kRefused,  // by the system, which says nothing of the file
};
// Fills `bytes` where the file is whole and holds the page of that hash and size.
PageRead read_page_file(const std::filesystem::path& path,
                        PageHash hash,
                        std::span<std::byte> bytes);

// Appears under `path` whole or not at all, readable by its owner alone. Returns what the system
// says where it failed; "" where it did not.
std::string write_page_file(const std::filesystem::path& path,
                            PageHash hash,
                            std::span<const std::byte> bytes);

// What tells a damaged page, not a forged one: any change within 8 bytes changes it, others do but
// for one in 2^64.
uint64_t page_checksum(std::span<const std::byte> bytes);

}  // namespace tandem
