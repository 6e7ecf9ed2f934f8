#include "server/chat/key_audit.h"

#include <utility>

namespace tandem::server {
namespace {

thread_local KeyAudit* current_audit = nullptr;

}  // namespace

KeyAudit::KeyAudit() : outer_(std::exchange(current_audit, this)) {}

KeyAudit::~KeyAudit() { current_audit = outer_; }

KeyAudit* KeyAudit::current() { return current_audit; }

void KeyAudit::add_unknown(std::string path) {
  if (unknown_.size() < kMaxPaths) unknown_.push_back(std::move(path));
}

}  // namespace tandem::server
