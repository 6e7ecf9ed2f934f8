// What a step gave to its devices.
#pragma once

#include <cstdint>

namespace tandem {

struct DeviceLaunches {
  int64_t num_kernels = 0;     // and copies, those of replayed recordings among them
  int64_t num_recordings = 0;  // that they were replayed as: what the host had to launch
  DeviceLaunches& operator+=(const DeviceLaunches& other) {
    num_kernels += other.num_kernels;
    num_recordings += other.num_recordings;
    return *this;
  }
  bool operator==(const DeviceLaunches&) const = default;
};

}  // namespace tandem
