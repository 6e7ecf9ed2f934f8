// KV pages of a model as vectors of bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/model/forward_model.h"

namespace tandem::tests {

inline std::vector<KvPageBytes> bytes_of(const std::vector<int32_t>& page_ids,
                                         std::vector<std::vector<std::byte>>& pages) {
  std::vector<KvPageBytes> bytes;
  for (size_t idx = 0; idx < page_ids.size(); ++idx)
    bytes.push_back({.page_id = page_ids[idx], .bytes = pages[idx]});
  return bytes;
}

// In one call.
inline std::vector<std::vector<std::byte>> read_pages(ForwardModel& model,
                                                      const std::vector<int32_t>& page_ids) {
  const auto size_bytes = static_cast<size_t>(model.kv_page_size_bytes());
  std::vector pages(page_ids.size(), std::vector(size_bytes, std::byte{0xee}));
  model.read_kv_pages(bytes_of(page_ids, pages));
  return pages;
}

inline void write_pages(ForwardModel& model,
                        const std::vector<int32_t>& page_ids,
                        std::vector<std::vector<std::byte>> pages) {
  model.write_kv_pages(bytes_of(page_ids, pages));
}

}  // namespace tandem::tests
