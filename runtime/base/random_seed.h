// Seeds, and secrets that no outsider can guess.
#pragma once

#include <cstdint>
#include <random>

namespace tandem {

// 64 bits from the operating system.
inline uint64_t random_seed() {
  std::random_device device;
  return uint64_t{device()} << 32 | device();
}

}  // namespace tandem
