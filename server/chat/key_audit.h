// Keys of a request that its reader does not know: what --strict-params refuses and a debug log
// mentions.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace tandem::server {

// While it lives, the FieldReaders of this thread tell it of each key that nobody had looked at
// when they end, by its path: "messages[2].colour". They nest; the latest one listens. Only of a
// body that was read without an error does it say something, since a reader stops at its first
// error.
class KeyAudit {
 public:
  KeyAudit();
  ~KeyAudit();
  KeyAudit(const KeyAudit&) = delete;
  KeyAudit& operator=(const KeyAudit&) = delete;

  static KeyAudit* current();  // nullptr: nobody listens

  void add_unknown(std::string path);
  // The first of them in the order in which readers end.
  [[nodiscard]] const std::vector<std::string>& unknown() const { return unknown_; }

 private:
  static constexpr size_t kMaxPaths = 32;

  KeyAudit* const outer_;
  std::vector<std::string> unknown_;
};

}  // namespace tandem::server
