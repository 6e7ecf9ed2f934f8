// MLA attention over latent KV pages, both forms (model/spec.md equations 8 and 9).
//
// A tile is some tokens of one item times some heads; its queries meet the keys page by page, in
// the order of positions, with a running maximum and sum (online softmax). Blocks of keys are
// pages, whatever the chunk, so neither chunking nor tiling nor threads can change a bit: a tile
// only decides what is computed together. Long contexts are split over heads, never over positions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu/host/panels.h"
#include "gpu/ops.h"

namespace tandem::gpu::host {

// Per head: W_UK^T [kv_lora_rank, qk_nope_head_dim] and W_UV [v_head_dim, kv_lora_rank] in panels.
class HostKvB : public KvBWeight {
 public:
  HostKvB(MatrixView<const bf16> kv_b_proj,
          const MlaShape& shape,
          const Kernels& kernels,
          WorkerPool& pool);

  [[nodiscard]] const MlaShape& shape() const { return shape_; }
  [[nodiscard]] const uint16_t* uk_transposed(int64_t head_idx) const {
    return memory_.as<const uint16_t>() + head_idx * head_stride();
  }
  [[nodiscard]] const uint16_t* uv(int64_t head_idx) const {
    return uk_transposed(head_idx) + uk_size();
  }
  [[nodiscard]] int64_t uk_panel_stride() const { return panel_stride_of(shape_.qk_nope_head_dim); }
  [[nodiscard]] int64_t uv_panel_stride() const { return panel_stride_of(shape_.kv_lora_rank); }
  [[nodiscard]] size_t size_bytes() const { return memory_.size_bytes(); }

 private:
  [[nodiscard]] int64_t uk_size() const {
    return num_panels_of(shape_.kv_lora_rank) * uk_panel_stride();
  }
  [[nodiscard]] int64_t head_stride() const {
    return uk_size() + num_panels_of(shape_.v_head_dim) * uv_panel_stride();
  }

  MlaShape shape_;
  HostMemory memory_;
};

class MlaAttention {
 public:
  MlaAttention(const Kernels& kernels, WorkerPool& pool) : kernels_(kernels), pool_(pool) {}

  // Work buffers of every worker; grows only, until all of it is given back.
  void reserve(const MlaShape& shape);
  void release() { scratch_.clear(); }

  struct Args {
    const Batch& batch;
    MlaForm form;
    MatrixView<const bf16> q;
    const HostKvB& kv_b;
    const KvCacheLayer& cache;
    MatrixView<bf16> out;
  };
  void run(const Args& args);

 private:
  // Tokens [token_begin, token_begin + num_tokens) of the item times num_heads heads; row
  // token * num_heads + head of the work buffers.
  struct Tile {
    const BatchItem* item;
    int32_t token_begin;
    int32_t num_tokens;
    int32_t head_begin;
    int32_t num_heads;
    [[nodiscard]] int32_t num_rows() const { return num_tokens * num_heads; }
    [[nodiscard]] int32_t position(int32_t token) const {
      return item->context_size_tokens + token_begin + token;
    }
  };
  // How an item is cut into tiles.
  struct Cut {
    int32_t num_token_tiles;
    int32_t num_head_groups;
    [[nodiscard]] int64_t num_tiles() const { return int64_t{num_token_tiles} * num_head_groups; }
  };
  struct Layout;
  struct Work;

  [[nodiscard]] Cut cut_of(const Args& args, const BatchItem& item) const;
  [[nodiscard]] Tile tile_at(const Args& args, int64_t tile_idx) const;
  void run_tile(const Args& args, const Tile& tile, const Work& work) const;
  void load_queries(const Args& args, const Tile& tile, const Work& work) const;
  void pack_latent_keys(const Args& args, const bf16* page, int num_keys, const Work& work) const;
  void expand_keys(
      const Args& args, int64_t head_idx, const bf16* page, int num_keys, const Work& work) const;
  void unpack_uk(const HostKvB& kv_b, int64_t head_idx, const Work& work) const;
  void attend(const Args& args, Range rows, int num_valid, const Work& work) const;
  void finish(const Args& args, const Tile& tile, const Work& work) const;

  const Kernels& kernels_;
  WorkerPool& pool_;
  std::vector<HostMemory> scratch_;  // one a worker
};

}  // namespace tandem::gpu::host
