#include "runtime/grammar/length_plan.h"

#include <algorithm>
#include <set>
#include <utility>

namespace tandem {
namespace {

constexpr size_t kMaxPlaces = 4096;

using PlaceSet = std::vector<int32_t>;  // sorted, each once, none with alternatives

// Places that a value may be at, made one place each: the subset construction.
class Determinizer {
 public:
  Determinizer(const std::vector<SchemaPlace>& schema, std::vector<std::string>& conflicts)
      : schema_(schema), conflicts_(conflicts) {}

  LengthPlan run(int32_t root) {
    places_.resize(1);
    const int32_t start = place_of({root});
    for (size_t idx = 1; idx < places_.size(); ++idx) expand(static_cast<int32_t>(idx));
    if (places_.size() > kMaxPlaces) {
      conflicts_.emplace_back("");
      return {};
    }
    return prune(start);
  }

 private:
  [[nodiscard]] const SchemaPlace& of(int32_t place) const {
    return schema_[static_cast<size_t>(place)];
  }

  void flatten(int32_t place, std::set<int32_t>& seen, std::set<int32_t>& flat) const {
    if (!seen.insert(place).second) return;
    if (of(place).alternatives.empty()) flat.insert(place);
    for (const int32_t alternative : of(place).alternatives) flatten(alternative, seen, flat);
  }

  int32_t place_of(const PlaceSet& members) {
    std::set<int32_t> seen, flat;
    for (const int32_t member : members) flatten(member, seen, flat);
    const bool is_unlimited = std::all_of(flat.begin(), flat.end(), [](int32_t place) {
      return place == LengthPlanBuilder::kAnyValue;
    });
    if (is_unlimited || places_.size() > kMaxPlaces) return LengthPlan::kUnlimited;
    PlaceSet set(flat.begin(), flat.end());
    const auto [found, is_new] = known_.try_emplace(set, static_cast<int32_t>(places_.size()));
    if (is_new) {
      places_.emplace_back();
      sets_.push_back(std::move(set));
    }
    return found->second;
  }

  void expand(int32_t place) {
    const PlaceSet set = sets_[static_cast<size_t>(place) - 1];
    LengthPlan::Place expanded;
    expanded.strings = lengths_of(set);
    std::set<std::string> keys;
    size_t num_first = 0;
    for (const int32_t one : set) {
      for (const auto& [key, member] : of(one).members) keys.insert(key);
      num_first = std::max(num_first, of(one).first_items.size());
    }
    for (const std::string& key : keys) {
      expanded.members[key] = next(set, [&](const SchemaPlace& from) -> std::optional<int32_t> {
        const auto found = from.members.find(key);
        return found != from.members.end() ? std::optional(found->second) : from.other_members;
      });
    }
    expanded.other_members = next(set, [](const SchemaPlace& from) { return from.other_members; });
    for (size_t idx = 0; idx < num_first; ++idx) {
      expanded.first_items.push_back(next(set, [&](const SchemaPlace& from) {
        return idx < from.first_items.size() ? std::optional(from.first_items[idx])
                                             : from.other_items;
      }));
    }
    expanded.other_items = next(set, [](const SchemaPlace& from) { return from.other_items; });
    places_[static_cast<size_t>(place)] = std::move(expanded);
  }

  template <typename Child>
  int32_t next(const PlaceSet& set, const Child& child) {
    PlaceSet children;
    for (const int32_t place : set) {
      if (const std::optional<int32_t> to = child(of(place))) children.push_back(*to);
    }
    return place_of(children);
  }

  // Limits that hold whichever alternative is being written. Where all take any text, all limits
  // together can be kept; what is listed or has a pattern goes its own way and must fit as it is.
  StringLengths lengths_of(const PlaceSet& set) {
    StringLengths all;
    bool differ = false, has_patterned = false;
    int num_writers = 0;  // alternatives with strings that are not listed
    for (const int32_t place : set) {
      const SchemaPlace& one = of(place);
      if (one.strings == SchemaPlace::Strings::kNone) continue;
      if (one.strings == SchemaPlace::Strings::kListed) continue;
      differ = differ || (num_writers++ > 0 && one.lengths != all);
      has_patterned = has_patterned || one.strings == SchemaPlace::Strings::kPatterned;
      all.least = std::max(all.least, one.lengths.least);
      if (one.lengths.most) all.most = std::min(*one.lengths.most, all.most.value_or(INT64_MAX));
    }
    const auto breaks = [&](const SchemaPlace& one) {
      return one.strings == SchemaPlace::Strings::kListed &&
             (one.lengths.least < all.least || (all.most && *one.lengths.most > *all.most));
    };
    const auto breaker =
        std::find_if(set.begin(), set.end(), [&](int32_t place) { return breaks(of(place)); });
    const bool is_empty = all.most && all.least > *all.most;
    if (breaker == set.end() && !is_empty && !(differ && has_patterned)) return all;
    conflicts_.push_back(of(set.front()).path);
    return {};
  }

  // Places from which no limit can be reached become the unlimited one.
  LengthPlan prune(int32_t start) {
    std::vector<bool> is_limited(places_.size());
    for (bool changed = true; changed;) {
      changed = false;
      for (size_t idx = 1; idx < places_.size(); ++idx) {
        if (is_limited[idx]) continue;
        const LengthPlan::Place& place = places_[idx];
        const auto limited = [&](int32_t to) { return is_limited[static_cast<size_t>(to)]; };
        is_limited[idx] =
            place.strings != StringLengths{} || limited(place.other_members) ||
            limited(place.other_items) ||
            std::any_of(place.first_items.begin(), place.first_items.end(), limited) ||
            std::any_of(place.members.begin(), place.members.end(),
                        [&](const auto& member) { return limited(member.second); });
        changed = changed || is_limited[idx];
      }
    }
    const auto clear = [&](int32_t& to) {
      if (!is_limited[static_cast<size_t>(to)]) to = LengthPlan::kUnlimited;
    };
    for (LengthPlan::Place& place : places_) {
      for (auto& [key, to] : place.members) clear(to);
      for (int32_t& to : place.first_items) clear(to);
      clear(place.other_members);
      clear(place.other_items);
    }
    clear(start);
    if (start == LengthPlan::kUnlimited) return {};
    return {std::move(places_), start};
  }

  const std::vector<SchemaPlace>& schema_;
  std::vector<std::string>& conflicts_;
  std::vector<LengthPlan::Place> places_;
  std::vector<PlaceSet> sets_;  // of the places behind the unlimited one
  std::map<PlaceSet, int32_t> known_;
};

}  // namespace

int32_t LengthPlan::member(int32_t place, const std::string& key) const {
  const Place& from = at(place);
  const auto found = from.members.find(key);
  return found != from.members.end() ? found->second : from.other_members;
}

int32_t LengthPlan::item(int32_t place, int64_t item_idx) const {
  const Place& from = at(place);
  const bool is_first = item_idx < static_cast<int64_t>(from.first_items.size());
  return is_first ? from.first_items[static_cast<size_t>(item_idx)] : from.other_items;
}

LengthPlanBuilder::LengthPlanBuilder() {
  SchemaPlace& any = places_.emplace_back();
  any.strings = SchemaPlace::Strings::kFree;
  any.other_members = kAnyValue;
  any.other_items = kAnyValue;
}

int32_t LengthPlanBuilder::add(std::string path) {
  places_.emplace_back().path = std::move(path);
  return static_cast<int32_t>(places_.size()) - 1;
}

LengthPlan LengthPlanBuilder::build(int32_t root, std::vector<std::string>& conflicts) const {
  return Determinizer(places_, conflicts).run(root);
}

}  // namespace tandem
