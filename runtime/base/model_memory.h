// The parts of a model's memory that can be given back between steps, and taken again.
#pragma once

namespace tandem {

struct ModelMemory {
  bool weights = false;       // what lies on the devices
  bool host_weights = false;  // routed experts in host memory; go and come with the above alone
  bool kv_cache = false;
  [[nodiscard]] bool any() const { return weights || host_weights || kv_cache; }
  bool operator==(const ModelMemory&) const = default;
};

inline constexpr ModelMemory kAllModelMemory{
    .weights = true, .host_weights = true, .kv_cache = true};
inline constexpr ModelMemory kDeviceModelMemory{.weights = true, .kv_cache = true};

inline ModelMemory operator|(const ModelMemory& left, const ModelMemory& right) {
  return {.weights = left.weights || right.weights,
          .host_weights = left.host_weights || right.host_weights,
          .kv_cache = left.kv_cache || right.kv_cache};
}
inline ModelMemory operator&(const ModelMemory& left, const ModelMemory& right) {
  return {.weights = left.weights && right.weights,
          .host_weights = left.host_weights && right.host_weights,
          .kv_cache = left.kv_cache && right.kv_cache};
}
// What is in `left` and not in `right`.
inline ModelMemory operator-(const ModelMemory& left, const ModelMemory& right) {
  return {.weights = left.weights && !right.weights,
          .host_weights = left.host_weights && !right.host_weights,
          .kv_cache = left.kv_cache && !right.kv_cache};
}

}  // namespace tandem
