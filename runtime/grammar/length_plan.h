// The limits of string lengths in a schema, by place in the document. Lengths are counted while a
// text is written and not by its grammar, where each character would be a state of its own.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

namespace tandem {

// In code points, as JSON Schema counts.
struct StringLengths {
  int64_t least = 0;
  std::optional<int64_t> most{};

  bool operator==(const StringLengths&) const = default;
};

// A tree automaton over JSON values: where a value stands decides how long its strings may be.
class LengthPlan {
 public:
  static constexpr int32_t kUnlimited = 0;  // the place where nothing is limited, nor below it

  struct Place {
    StringLengths strings{};
    std::map<std::string, int32_t> members{};  // by key as it stands between its quotes
    int32_t other_members = kUnlimited;
    std::vector<int32_t> first_items{};
    int32_t other_items = kUnlimited;
  };

  LengthPlan() : places_(1) {}
  LengthPlan(std::vector<Place> places, int32_t root) : places_(std::move(places)), root_(root) {}

  [[nodiscard]] bool empty() const { return root_ == kUnlimited; }
  [[nodiscard]] int32_t root() const { return root_; }
  [[nodiscard]] const StringLengths& strings(int32_t place) const { return at(place).strings; }
  [[nodiscard]] int32_t member(int32_t place, const std::string& key) const;
  [[nodiscard]] int32_t item(int32_t place, int64_t item_idx) const;

 private:
  [[nodiscard]] const Place& at(int32_t place) const { return places_[static_cast<size_t>(place)]; }

  std::vector<Place> places_;  // the first is kUnlimited
  int32_t root_ = kUnlimited;
};

// What a schema says of one value; alternatives (anyOf, oneOf) are told apart only by what follows.
struct SchemaPlace {
  enum class Strings { kNone, kFree, kListed, kPatterned };

  std::string path{};                   // for messages
  std::vector<int32_t> alternatives{};  // one of these, and nothing of its own
  Strings strings = Strings::kNone;
  StringLengths lengths{};  // kFree, kPatterned: enforced; kListed: of what is listed
  std::map<std::string, int32_t> members{};
  std::optional<int32_t> other_members{};
  std::vector<int32_t> first_items{};
  std::optional<int32_t> other_items{};
};

class LengthPlanBuilder {
 public:
  static constexpr int32_t kAnyValue = 0;

  LengthPlanBuilder();

  int32_t add(std::string path);
  // Until the next add().
  SchemaPlace& operator[](int32_t place) { return places_[static_cast<size_t>(place)]; }

  // Alternatives whose limits cannot be told apart are left unlimited; their paths are added to
  // `conflicts`.
  [[nodiscard]] LengthPlan build(int32_t root, std::vector<std::string>& conflicts) const;

 private:
  std::vector<SchemaPlace> places_;
};

}  // namespace tandem
