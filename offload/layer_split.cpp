#include "offload/layer_split.h"

#include <algorithm>
#include <limits>

#include "runtime/base/check.h"

namespace tandem::offload {

std::vector<int32_t> split_layers(std::span<const int64_t> layer_size_bytes,
                                  std::span<const DeviceRoom> devices) {
  const size_t num_layers = layer_size_bytes.size();
  const size_t num_devices = devices.size();
  TANDEM_CHECK(num_devices > 0 && num_layers >= num_devices, "fewer layers than devices");
  std::vector<int64_t> size_before(num_layers + 1);  // of layers 0 .. idx-1
  for (size_t idx = 0; idx < num_layers; ++idx) {
    size_before[idx + 1] = size_before[idx] + layer_size_bytes[idx];
  }
  const auto share = [&](size_t device_idx, size_t begin, size_t end) {
    const DeviceRoom& device = devices[device_idx];
    return static_cast<double>(device.fixed_size_bytes + size_before[end] - size_before[begin]) /
           static_cast<double>(std::max<int64_t>(device.room_size_bytes, 1));
  };
  // fullest[d][l]: share of the fullest of the first d+1 devices, when they hold l layers in the
  // best way; the last of them then begins at begin[d][l].
  const double kNone = std::numeric_limits<double>::infinity();
  std::vector fullest(num_devices, std::vector<double>(num_layers + 1, kNone));
  std::vector begin(num_devices, std::vector<size_t>(num_layers + 1));
  for (size_t end = 1; end <= num_layers; ++end) fullest[0][end] = share(0, 0, end);
  for (size_t device_idx = 1; device_idx < num_devices; ++device_idx) {
    for (size_t end = device_idx + 1; end <= num_layers; ++end) {
      for (size_t middle = device_idx; middle < end; ++middle) {
        const double value =
            std::max(fullest[device_idx - 1][middle], share(device_idx, middle, end));
        if (value > fullest[device_idx][end]) continue;
        fullest[device_idx][end] = value;
        begin[device_idx][end] = middle;
      }
    }
  }
  std::vector<int32_t> layers_of(num_devices);
  size_t end = num_layers;
  for (size_t device_idx = num_devices; device_idx-- > 0;) {
    const size_t first = device_idx == 0 ? 0 : begin[device_idx][end];
    layers_of[device_idx] = static_cast<int32_t>(end - first);
    end = first;
  }
  return layers_of;
}

}  // namespace tandem::offload
