// The latent KV of one device's layers, in its memory, and how pages of it leave and come back.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "gpu/ops.h"
#include "runtime/model/forward_model.h"

namespace tandem::offload {

struct KvCacheShape {
  int32_t num_layers = 0;
  int32_t num_pages = 0;
  int32_t kv_dim = 0;

  [[nodiscard]] int64_t layer_page_size_bytes() const {  // [64, kv_dim] bf16
    return int64_t{kPageSizeTokens} * kv_dim * int64_t{sizeof(bf16)};
  }
  [[nodiscard]] int64_t page_size_bytes() const { return num_layers * layer_page_size_bytes(); }
  [[nodiscard]] int64_t size_bytes() const { return num_pages * page_size_bytes(); }
};

class KvCache {
 public:
  // All zeros. Throws LoadError. `ops` outlives it.
  KvCache(gpu::Ops& ops, const KvCacheShape& shape);

  [[nodiscard]] gpu::KvCacheLayer layer(int32_t idx) const;
  [[nodiscard]] const KvCacheShape& shape() const { return shape_; }

  // Pages as [num_layers, 64, kv_dim], which begin at `offset_bytes` of the bytes that each is
  // copied to or from: what is before them is other devices'. Between steps.
  void read_pages(std::span<const KvPageBytes> pages, int64_t offset_bytes);
  void write_pages(std::span<const KvPageBytes> pages, int64_t offset_bytes);

  // Host memory that the caches of pages of `page_size_bytes` take on cards: pages wait there
  // between a card's copies and those of the CPU.
  static int64_t planned_host_size_bytes(int64_t page_size_bytes) {
    return kNumStagedPages * page_size_bytes;
  }
  // Some MiB, beside which waiting for the card is short.
  static constexpr int32_t kNumStagedPages = 4;

 private:
  // A layer of a page: on the device, and among `page` [page_size_bytes].
  [[nodiscard]] std::span<std::byte> on_device(int32_t layer_idx, int32_t page_id) const;
  [[nodiscard]] std::span<std::byte> of_layer(std::span<std::byte> page, int32_t layer_idx) const;
  // Where the device copies a page's bytes to, and from: where they belong, or staging.
  [[nodiscard]] std::span<std::byte> reachable(std::span<std::byte> page, size_t idx) const;
  // The next pages that can be on their way at once.
  [[nodiscard]] size_t num_at_once(size_t num_pages) const;

  gpu::Ops& ops_;
  KvCacheShape shape_;
  std::unique_ptr<gpu::DeviceBuffer> buffer_;   // [num_layers, num_pages, 64, kv_dim] bf16
  std::unique_ptr<gpu::DeviceBuffer> staging_;  // [kNumStagedPages] pages; null on the host
};

}  // namespace tandem::offload
