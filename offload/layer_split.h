// Which layers lie on which device: runs of neighbours, so that the residual crosses once per
// border.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem::offload {

struct DeviceRoom {
  int64_t fixed_size_bytes = 0;  // taken whatever the split: embedding, head, workspace
  int64_t room_size_bytes = 0;   // all that it can hold
};

// Layers per device [devices], at least one each, in the order of the layers: the split whose
// fullest device, as a share of its room, is least full; of equals the one that fills the first
// devices. `layer_size_bytes` [num_hidden_layers] counts weights and KV; there are at least as many
// layers as devices.
std::vector<int32_t> split_layers(std::span<const int64_t> layer_size_bytes,
                                  std::span<const DeviceRoom> devices);

}  // namespace tandem::offload
