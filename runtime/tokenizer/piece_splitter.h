// Cuts text into the pieces that BPE never merges across: pat_str of model/spec.md §4.2.
#pragma once

#include <cstddef>
#include <memory>
#include <string_view>

namespace tandem {

// The pattern of §4.2, matched by PCRE2. Three differences of notation, none of meaning:
//   * PCRE2 has no class intersection: [A&&[^B]] is written (?!B)[A];
//   * \p{Han} means Script_Extensions in PCRE2 >= 10.40, \p{sc:Han} is the Script that is meant;
//   * \s is spelt out, since PCRE2 counts U+180E as white space and Unicode no longer does.
// Possessive quantifiers stand where giving back can never help a later part to match.
class PieceSplitter {
 public:
  PieceSplitter();  // throws LoadError when the PCRE2 at hand lacks Unicode support
  ~PieceSplitter();
  PieceSplitter(const PieceSplitter&) = delete;
  PieceSplitter& operator=(const PieceSplitter&) = delete;

  // Size in bytes of the piece that starts at text[offset]; > 0 while offset < text.size(). `text`
  // must be valid UTF-8 and must not change its end between calls: pieces depend on what follows.
  // Thread-safe.
  [[nodiscard]] size_t next_piece_size(std::string_view text, size_t offset) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem
