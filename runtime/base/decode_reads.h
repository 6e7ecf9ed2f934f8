// What limits a decode step: the bytes that it must read, by the memory that they lie in.
#pragma once

#include <cstdint>

namespace tandem {

struct DecodeReads {
  int64_t host_bytes = 0;
  int64_t card_bytes = 0;  // of all cards, which compute one after the other
  [[nodiscard]] int64_t total_bytes() const { return host_bytes + card_bytes; }
  // Seconds at these bandwidths; host and cards read in turn.
  [[nodiscard]] double seconds_at(double host_gb_per_s, double card_gb_per_s) const {
    const double host_s = host_bytes > 0 ? static_cast<double>(host_bytes) / host_gb_per_s : 0.0;
    const double card_s = card_bytes > 0 ? static_cast<double>(card_bytes) / card_gb_per_s : 0.0;
    return (host_s + card_s) * 1e-9;
  }
};

}  // namespace tandem
