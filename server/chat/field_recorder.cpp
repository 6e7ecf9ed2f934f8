#include "server/chat/field_recorder.h"

#include <algorithm>
#include <utility>

#include "runtime/base/check.h"

namespace tandem::server {
namespace {

thread_local FieldRecorder* current_recorder = nullptr;

}  // namespace

FieldRecorder::FieldRecorder() {
  TANDEM_CHECK(current_recorder == nullptr, "two recorders at once");
  current_recorder = this;
}

FieldRecorder::~FieldRecorder() { current_recorder = nullptr; }

FieldRecorder* FieldRecorder::current() { return current_recorder; }

// A key that is looked at first and then read by type has that type.
void FieldRecorder::note(FieldUse use) {
  const auto known = std::find_if(uses_.begin(), uses_.end(),
                                  [&](const FieldUse& other) { return other.name == use.name; });
  if (known == uses_.end()) {
    uses_.push_back(std::move(use));
  } else if (known->type.empty()) {
    *known = std::move(use);
  }
}

}  // namespace tandem::server
