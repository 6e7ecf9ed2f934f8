// What a request reader looks at: the keys of a body with their types and ranges, as the code reads
// them. The OpenAPI document is made of this, so that it cannot say anything else.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::server {

struct FieldUse {
  std::string name{};
  std::string_view type{};  // of JSON Schema; "" where several are taken
  std::optional<double> min{}, max{};
  bool is_ignored = false;  // known, and without effect
};

// While it lives, the FieldReaders of this thread tell it of each top-level key that they look at.
// One at a time.
class FieldRecorder {
 public:
  FieldRecorder();
  ~FieldRecorder();
  FieldRecorder(const FieldRecorder&) = delete;
  FieldRecorder& operator=(const FieldRecorder&) = delete;

  static FieldRecorder* current();  // nullptr but for the OpenAPI document

  void note(FieldUse use);
  [[nodiscard]] const std::vector<FieldUse>& uses() const { return uses_; }  // each key once

 private:
  std::vector<FieldUse> uses_;
};

}  // namespace tandem::server
