#include "offload/kv_cache.h"

#include <algorithm>
#include <cstring>

namespace tandem::offload {

KvCache::KvCache(gpu::Ops& ops, const KvCacheShape& shape)
    : ops_(ops),
      shape_(shape),
      buffer_(ops.allocate(static_cast<size_t>(shape.size_bytes()))),
      staging_(ops.memory_is_host() ? nullptr
                                    : ops.allocate_host(static_cast<size_t>(
                                          planned_host_size_bytes(shape.page_size_bytes())))) {}

gpu::KvCacheLayer KvCache::layer(int32_t idx) const {
  return {.data = reinterpret_cast<bf16*>(on_device(idx, 0).data()), .num_pages = shape_.num_pages};
}

void KvCache::read_pages(std::span<const KvPageBytes> pages, int64_t offset_bytes) {
  const auto page_size = static_cast<size_t>(shape_.page_size_bytes());
  const auto offset = static_cast<size_t>(offset_bytes);
  while (!pages.empty()) {
    const size_t num = num_at_once(pages.size());
    for (size_t idx = 0; idx < num; ++idx) {
      const auto target = reachable(pages[idx].bytes.subspan(offset, page_size), idx);
      for (int32_t layer = 0; layer < shape_.num_layers; ++layer)
        ops_.copy_to_host(on_device(layer, pages[idx].page_id), of_layer(target, layer));
    }
    ops_.synchronize();
    for (size_t idx = 0; staging_ && idx < num; ++idx) {
      const auto target = pages[idx].bytes.subspan(offset, page_size);
      std::memcpy(target.data(), reachable(target, idx).data(), page_size);
    }
    pages = pages.subspan(num);
  }
}

void KvCache::write_pages(std::span<const KvPageBytes> pages, int64_t offset_bytes) {
  const auto page_size = static_cast<size_t>(shape_.page_size_bytes());
  const auto offset = static_cast<size_t>(offset_bytes);
  while (!pages.empty()) {
    const size_t num = num_at_once(pages.size());
    for (size_t idx = 0; idx < num; ++idx) {
      const auto page = pages[idx].bytes.subspan(offset, page_size);
      const auto source = reachable(page, idx);
      if (staging_) std::memcpy(source.data(), page.data(), page_size);
      for (int32_t layer = 0; layer < shape_.num_layers; ++layer)
        ops_.copy_to_device(of_layer(source, layer), on_device(layer, pages[idx].page_id));
    }
    ops_.synchronize();  // before others take their place in staging
    pages = pages.subspan(num);
  }
}

std::span<std::byte> KvCache::on_device(int32_t layer_idx, int32_t page_id) const {
  const int64_t size_bytes = shape_.layer_page_size_bytes();
  const int64_t page_idx = int64_t{layer_idx} * shape_.num_pages + page_id;
  return {buffer_->data() + page_idx * size_bytes, static_cast<size_t>(size_bytes)};
}

std::span<std::byte> KvCache::of_layer(std::span<std::byte> page, int32_t layer_idx) const {
  const auto size_bytes = static_cast<size_t>(shape_.layer_page_size_bytes());
  return page.subspan(static_cast<size_t>(layer_idx) * size_bytes, size_bytes);
}

std::span<std::byte> KvCache::reachable(std::span<std::byte> page, size_t idx) const {
  if (staging_ == nullptr) return page;
  return {staging_->data() + idx * page.size(), page.size()};
}

size_t KvCache::num_at_once(size_t num_pages) const {
  return staging_ == nullptr ? num_pages : std::min(num_pages, size_t{kNumStagedPages});
}

}  // namespace tandem::offload
