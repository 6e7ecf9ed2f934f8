// What becomes of keys of a request that its reader does not know: with --strict-params a 400 that
// names the first of them, else nothing but a line in the debug log, once a name.
#pragma once

#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "server/chat/api_error.h"
#include "server/chat/key_audit.h"

namespace tandem::server {

// Thread-safe.
class UnknownKeys {
 public:
  explicit UnknownKeys(bool is_strict) : is_strict_(is_strict) {}

  // What `read` makes of a body, a Result; an error where the body was good but for a key that
  // nobody knows, and that is not ignored.
  template <typename Read>
  auto judged(const Read& read) -> decltype(read()) {
    if (!wanted()) return read();
    KeyAudit audit;
    auto result = read();
    if (!result) return result;
    if (auto error = judge(audit)) return *std::move(error);
    return result;
  }

 private:
  [[nodiscard]] bool wanted() const;  // somebody wants to know at this moment
  std::optional<ApiError> judge(const KeyAudit& audit);
  void mention(const std::string& path);

  const bool is_strict_;
  std::mutex mutex_;
  std::set<std::string> mentioned_;  // bounded
};

}  // namespace tandem::server
