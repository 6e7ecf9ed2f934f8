#include "gpu/host/attention.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "runtime/base/check.h"

namespace tandem::gpu::host {
namespace {

constexpr int32_t kKeysABlock = kPageSizeTokens;
// Queries of a tile: enough to pay for packing a page, few enough for queries, sums and the page to
// stay in a 1 MiB cache (96 * (592 + 528) * 4 bytes = 430 KB, a page 140 KB).
constexpr int32_t kTileRows = 96;
constexpr int32_t kPrefillTileTokens = 8;

// Rows a line later than a power of two, for the sake of cache sets.
int64_t row_stride_of(int64_t num_cols) { return round_up(num_cols, kPanelRows) + kPanelRows; }

const bf16* page_of(const KvCacheLayer& cache, const MlaShape& shape, int32_t page_id) {
  TANDEM_CHECK(page_id >= 0 && page_id < cache.num_pages, "a page that the cache has not");
  return cache.data + int64_t{page_id} * kPageSizeTokens * shape.kv_dim();
}

}  // namespace

HostKvB::HostKvB(MatrixView<const bf16> kv_b_proj,
                 const MlaShape& shape,
                 const Kernels& kernels,
                 WorkerPool& pool)
    : shape_(shape) {
  const int64_t head_rows = shape.qk_nope_head_dim + shape.v_head_dim;
  TANDEM_CHECK(kv_b_proj.rows == shape.num_attention_heads * head_rows, "kv_b_proj: rows");
  TANDEM_CHECK(kv_b_proj.cols == shape.kv_lora_rank, "kv_b_proj: columns");
  memory_ =
      HostMemory(static_cast<size_t>(shape.num_attention_heads * head_stride()) * sizeof(bf16));
  uint16_t* base = memory_.as<uint16_t>();
  pool.run([&](const WorkerPool::Worker& worker) {
    const Range heads = part_of(shape.num_attention_heads, worker.worker_idx, pool.num_workers());
    for (int64_t head_idx = heads.begin; head_idx < heads.end; ++head_idx) {
      uint16_t* uk = base + head_idx * head_stride();
      const auto row = [&](int64_t row_idx) {
        return bits_of(&kv_b_proj(head_idx * head_rows + row_idx, 0));
      };
      for (int64_t dim = 0; dim < shape.qk_nope_head_dim; dim += 2) {
        kernels.pack_row_pair(row(dim), dim + 1 < shape.qk_nope_head_dim ? row(dim + 1) : nullptr,
                              shape.kv_lora_rank, uk + dim * kPanelRows, uk_panel_stride());
      }
      for (int64_t dim = 0; dim < shape.v_head_dim; dim += kPanelRows) {
        const int64_t rows = std::min<int64_t>(kPanelRows, shape.v_head_dim - dim);
        kernels.pack_panel(row(shape.qk_nope_head_dim + dim), kv_b_proj.row_stride,
                           static_cast<int>(rows), shape.kv_lora_rank,
                           uk + uk_size() + dim / kPanelRows * uv_panel_stride());
      }
    }
  });
}

// Strides and sizes of a worker's buffers, in elements.
struct MlaAttention::Layout {
  explicit Layout(const MlaShape& shape)
      : q_stride(row_stride_of(std::max(shape.kv_dim(), shape.qk_head_dim()))),
        sum_stride(row_stride_of(std::max(shape.kv_lora_rank, shape.v_head_dim))),
        wide_stride(row_stride_of(
            std::max({shape.kv_lora_rank, shape.qk_nope_head_dim, shape.v_head_dim}))),
        key_row_stride(row_stride_of(std::max(shape.qk_head_dim(), shape.v_head_dim))),
        key_panel_stride(panel_stride_of(std::max(shape.kv_dim(), shape.qk_head_dim()))),
        num_value_panels(num_panels_of(std::max(shape.kv_lora_rank, shape.v_head_dim))),
        uk_size(num_panels_of(shape.qk_nope_head_dim) * panel_stride_of(shape.kv_lora_rank)) {}

  int64_t q_stride;
  int64_t sum_stride;
  int64_t wide_stride;
  int64_t key_row_stride;
  int64_t key_panel_stride;
  int64_t num_value_panels;
  int64_t uk_size;
};

// A worker's buffers. Floats first, so that everything is aligned.
struct MlaAttention::Work {
  Work(const MlaShape& shape, uintptr_t address) : layout(shape), base(address) {
    take(q, kTileRows * layout.q_stride);
    take(sums, kTileRows * layout.sum_stride);
    take(scores, int64_t{kTileRows} * kKeysABlock);
    take(maximum, kTileRows);
    take(total, kTileRows);
    take(wide_in, kTileRows * layout.wide_stride);
    take(wide_out, kTileRows * layout.wide_stride);
    take(keys, kKeysABlock / kPanelRows * layout.key_panel_stride);
    take(values, layout.num_value_panels * panel_stride_of(kKeysABlock));
    take(uk, layout.uk_size);
    take(key_rows, kKeysABlock * layout.key_row_stride);
  }
  [[nodiscard]] size_t size_bytes() const { return used_size_bytes; }

  Layout layout;
  float* q;            // [rows, q_stride] queries as they meet the keys
  float* sums;         // [rows, sum_stride] sums of weighted values
  float* scores;       // [rows, 64]
  float* maximum;      // [rows]
  float* total;        // [rows]
  float* wide_in;      // [96, wide_stride] operands of the per-head products
  float* wide_out;     // [96, wide_stride]
  uint16_t* keys;      // 4 panels
  uint16_t* values;    // panels of the transposed values
  uint16_t* uk;        // W_UK of one head, not transposed (expanded form)
  uint16_t* key_rows;  // [64, key_row_stride] keys or values of one head (expanded form)

 private:
  template <typename T>
  void take(T*& pointer, int64_t num) {
    pointer = reinterpret_cast<T*>(base + used_size_bytes);
    used_size_bytes += static_cast<size_t>(round_up(num * static_cast<int64_t>(sizeof(T)), 64));
  }
  uintptr_t base;
  size_t used_size_bytes = 0;
};

void MlaAttention::reserve(const MlaShape& shape) {
  const size_t size_bytes = Work(shape, 0).size_bytes();  // only the size matters here
  scratch_.resize(static_cast<size_t>(pool_.num_workers()));
  for (HostMemory& memory : scratch_) {
    if (memory.size_bytes() < size_bytes) memory = HostMemory(size_bytes);
  }
}

MlaAttention::Cut MlaAttention::cut_of(const Args& args, const BatchItem& item) const {
  const int32_t num_heads = args.kv_b.shape().num_attention_heads;
  if (args.form == MlaForm::kExpanded) {  // a head's keys and values are made for a tile
    return {static_cast<int32_t>(ceil_div(item.num_tokens, kTileRows)), num_heads};
  }
  const int32_t tokens = std::clamp(item.num_tokens, 1, kPrefillTileTokens);
  const int32_t heads_that_fit = std::max(1, kTileRows / tokens);
  // Few items (a lone decode): as many groups of heads as there are workers.
  const int64_t groups_for_workers =
      item.num_tokens > kPrefillTileTokens
          ? 1
          : ceil_div(pool_.num_workers(), static_cast<int64_t>(args.batch.items.size()));
  const int64_t groups =
      std::clamp<int64_t>(groups_for_workers, ceil_div(num_heads, heads_that_fit), num_heads);
  return {static_cast<int32_t>(ceil_div(item.num_tokens, tokens)), static_cast<int32_t>(groups)};
}

MlaAttention::Tile MlaAttention::tile_at(const Args& args, int64_t tile_idx) const {
  for (const BatchItem& item : args.batch.items) {
    const Cut cut = cut_of(args, item);
    if (tile_idx >= cut.num_tiles()) {
      tile_idx -= cut.num_tiles();
      continue;
    }
    // The last tokens see most keys: first come, so that the workers end together.
    const int token_tile =
        cut.num_token_tiles - 1 - static_cast<int>(tile_idx / cut.num_head_groups);
    const Range tokens = part_of(item.num_tokens, token_tile, cut.num_token_tiles);
    const Range heads =
        part_of(args.kv_b.shape().num_attention_heads,
                static_cast<int>(tile_idx % cut.num_head_groups), cut.num_head_groups);
    return {&item, static_cast<int32_t>(tokens.begin),
            static_cast<int32_t>(tokens.end - tokens.begin), static_cast<int32_t>(heads.begin),
            static_cast<int32_t>(heads.end - heads.begin)};
  }
  TANDEM_CHECK(false, "no such tile");
}

void MlaAttention::run(const Args& args) {
  TANDEM_CHECK(scratch_.size() == static_cast<size_t>(pool_.num_workers()),
               "mla_attention before reserve()");
  const MlaShape& shape = args.kv_b.shape();
  int64_t num_tiles = 0;
  int64_t work = 0;
  for (const BatchItem& item : args.batch.items) {
    num_tiles += cut_of(args, item).num_tiles();
    work += int64_t{item.num_tokens} * (item.context_size_tokens + item.num_tokens + 128);
  }
  work *= int64_t{shape.num_attention_heads} * shape.kv_dim();
  std::atomic<int64_t> next_tile{0};
  const auto body = [&](const WorkerPool::Worker& worker) {
    const HostMemory& memory = scratch_[static_cast<size_t>(worker.worker_idx)];
    const Work buffers(shape, reinterpret_cast<uintptr_t>(memory.as<std::byte>()));
    TANDEM_CHECK(buffers.size_bytes() <= memory.size_bytes(), "reserve() was for another shape");
    for (;;) {
      const int64_t tile_idx = next_tile.fetch_add(1, std::memory_order_relaxed);
      if (tile_idx >= num_tiles) return;
      run_tile(args, tile_at(args, tile_idx), buffers);
    }
  };
  if (work < 1 << 16) {
    body({});
  } else {
    pool_.run(body);
  }
}

void MlaAttention::run_tile(const Args& args, const Tile& tile, const Work& work) const {
  const MlaShape& shape = args.kv_b.shape();
  const Layout& layout = work.layout;
  load_queries(args, tile, work);
  std::fill_n(work.sums, tile.num_rows() * layout.sum_stride, 0.0f);
  std::fill_n(work.maximum, tile.num_rows(), -INFINITY);
  std::fill_n(work.total, tile.num_rows(), 0.0f);
  if (args.form == MlaForm::kExpanded) unpack_uk(args.kv_b, tile.head_begin, work);

  const int32_t last_position = tile.position(tile.num_tokens - 1);
  for (int32_t first_key = 0; first_key <= last_position; first_key += kKeysABlock) {
    const int num_keys = std::min(kKeysABlock, last_position + 1 - first_key);
    const int32_t page_id = tile.item->page_ids[static_cast<size_t>(first_key / kKeysABlock)];
    const bf16* page = page_of(args.cache, shape, page_id);
    if (args.form == MlaForm::kExpanded) {
      expand_keys(args, tile.head_begin, page, num_keys, work);
    } else {
      pack_latent_keys(args, page, num_keys, work);
    }
    // Tokens that see a part of the page go one by one, the rest (the later ones) together.
    for (int32_t token = 0; token < tile.num_tokens; ++token) {
      const int num_valid = std::min(kKeysABlock, tile.position(token) + 1 - first_key);
      if (num_valid <= 0) continue;
      const bool whole = num_valid == kKeysABlock;
      const int64_t end = whole ? tile.num_tokens : token + 1;
      attend(args, {int64_t{token} * tile.num_heads, end * tile.num_heads}, num_valid, work);
      if (whole) break;
    }
  }
  finish(args, tile, work);
}

// Absorbed: q~ = W_UK^T q_nope, then q_rope behind it, as c and k_rope lie in the cache (9).
void MlaAttention::load_queries(const Args& args, const Tile& tile, const Work& work) const {
  const MlaShape& shape = args.kv_b.shape();
  const int64_t q_stride = work.layout.q_stride;
  for (int32_t head = 0; head < tile.num_heads; ++head) {
    const int64_t head_idx = tile.head_begin + head;
    float* rows = work.q + head * q_stride;
    for (int32_t token = 0; token < tile.num_tokens; ++token) {
      const bf16* q = &args.q(tile.item->token_begin + tile.token_begin + token,
                              head_idx * shape.qk_head_dim());
      if (args.form == MlaForm::kExpanded) {
        kernels_.widen(bits_of(q), shape.qk_head_dim(), rows + token * tile.num_heads * q_stride);
      } else {
        kernels_.widen(bits_of(q), shape.qk_nope_head_dim,
                       work.wide_in + token * work.layout.wide_stride);
      }
    }
    if (args.form == MlaForm::kExpanded) continue;
    kernels_.gemm_f32({.x = work.wide_in,
                       .x_stride = work.layout.wide_stride,
                       .num_rows = tile.num_tokens,
                       .panels = args.kv_b.uk_transposed(head_idx),
                       .panel_stride = args.kv_b.uk_panel_stride(),
                       .num_panels = num_panels_of(shape.kv_lora_rank),
                       .num_k = shape.qk_nope_head_dim,
                       .out = rows,
                       .out_stride = tile.num_heads * q_stride,
                       .accumulate = false});
    for (int32_t token = 0; token < tile.num_tokens; ++token) {
      const bf16* q = &args.q(tile.item->token_begin + tile.token_begin + token,
                              head_idx * shape.qk_head_dim());
      kernels_.widen(bits_of(q) + shape.qk_nope_head_dim, shape.qk_rope_head_dim,
                     rows + token * tile.num_heads * q_stride + shape.kv_lora_rank);
    }
  }
}

void MlaAttention::pack_latent_keys(const Args& args,
                                    const bf16* page,
                                    int num_keys,
                                    const Work& work) const {
  const MlaShape& shape = args.kv_b.shape();
  const int64_t kv_dim = shape.kv_dim();
  for (int key = 0; key < num_keys; key += kPanelRows) {
    kernels_.pack_panel(bits_of(page) + key * kv_dim, kv_dim, std::min(kPanelRows, num_keys - key),
                        kv_dim, work.keys + key / kPanelRows * panel_stride_of(kv_dim));
  }
  for (int key = 0; key < num_keys; key += 2) {
    kernels_.pack_row_pair(bits_of(page) + key * kv_dim,
                           key + 1 < num_keys ? bits_of(page) + (key + 1) * kv_dim : nullptr,
                           shape.kv_lora_rank, work.values + key * kPanelRows,
                           panel_stride_of(kKeysABlock));
  }
}

// W_UK [qk_nope_head_dim, kv_lora_rank] in panels, from the transposed ones: kept once in memory.
void MlaAttention::unpack_uk(const HostKvB& kv_b, int64_t head_idx, const Work& work) const {
  const MlaShape& shape = kv_b.shape();
  const uint16_t* transposed = kv_b.uk_transposed(head_idx);
  const int64_t stride = panel_stride_of(shape.kv_lora_rank);
  std::fill_n(work.uk, work.layout.uk_size, uint16_t{0});
  for (int64_t rank = 0; rank < shape.kv_lora_rank; ++rank) {
    const uint16_t* column =
        transposed + rank / kPanelRows * kv_b.uk_panel_stride() + rank % kPanelRows * 2;
    uint16_t* row = work.uk + rank / 2 * 2 * kPanelRows + rank % 2;
    for (int64_t dim = 0; dim < shape.qk_nope_head_dim; ++dim) {
      row[dim / kPanelRows * stride + dim % kPanelRows * 2] =
          column[dim / 2 * 2 * kPanelRows + dim % 2];
    }
  }
}

// Expanded: k_nope = W_UK c and v = W_UV c of the tile's head, rounded to BF16 (8).
void MlaAttention::expand_keys(
    const Args& args, int64_t head_idx, const bf16* page, int num_keys, const Work& work) const {
  const MlaShape& shape = args.kv_b.shape();
  const int64_t wide_stride = work.layout.wide_stride;
  const int64_t key_stride = work.layout.key_row_stride;
  for (int key = 0; key < num_keys; ++key) {
    kernels_.widen(bits_of(page) + int64_t{key} * shape.kv_dim(), shape.kv_lora_rank,
                   work.wide_in + key * wide_stride);
  }
  Gemm<float> gemm{.x = work.wide_in,
                   .x_stride = wide_stride,
                   .num_rows = num_keys,
                   .panels = work.uk,
                   .panel_stride = panel_stride_of(shape.kv_lora_rank),
                   .num_panels = num_panels_of(shape.qk_nope_head_dim),
                   .num_k = shape.kv_lora_rank,
                   .out = work.wide_out,
                   .out_stride = wide_stride,
                   .accumulate = false};
  kernels_.gemm_f32(gemm);
  for (int key = 0; key < num_keys; ++key) {
    uint16_t* row = work.key_rows + key * key_stride;
    kernels_.narrow(work.wide_out + key * wide_stride, shape.qk_nope_head_dim, row);
    std::memcpy(row + shape.qk_nope_head_dim,
                page + int64_t{key} * shape.kv_dim() + shape.kv_lora_rank,
                static_cast<size_t>(shape.qk_rope_head_dim) * sizeof(bf16));
  }
  for (int key = 0; key < num_keys; key += kPanelRows) {
    kernels_.pack_panel(work.key_rows + key * key_stride, key_stride,
                        std::min(kPanelRows, num_keys - key), shape.qk_head_dim(),
                        work.keys + key / kPanelRows * panel_stride_of(shape.qk_head_dim()));
  }

  gemm.panels = args.kv_b.uv(head_idx);
  gemm.num_panels = num_panels_of(shape.v_head_dim);
  kernels_.gemm_f32(gemm);
  for (int key = 0; key < num_keys; ++key) {
    kernels_.narrow(work.wide_out + key * wide_stride, shape.v_head_dim,
                    work.key_rows + key * key_stride);
  }
  for (int key = 0; key < num_keys; key += 2) {
    kernels_.pack_row_pair(work.key_rows + key * key_stride,
                           key + 1 < num_keys ? work.key_rows + (key + 1) * key_stride : nullptr,
                           shape.v_head_dim, work.values + key * kPanelRows,
                           panel_stride_of(kKeysABlock));
  }
}

// Rows that see the first `num_valid` keys of the page: scores, online softmax, weighted values.
void MlaAttention::attend(const Args& args, Range rows, int num_valid, const Work& work) const {
  const MlaShape& shape = args.kv_b.shape();
  const bool expanded = args.form == MlaForm::kExpanded;
  const int64_t key_dim = expanded ? shape.qk_head_dim() : shape.kv_dim();
  const int64_t value_dim = expanded ? shape.v_head_dim : shape.kv_lora_rank;
  const int64_t sum_stride = work.layout.sum_stride;
  float* scores = work.scores + rows.begin * kKeysABlock;
  kernels_.gemm_f32({.x = work.q + rows.begin * work.layout.q_stride,
                     .x_stride = work.layout.q_stride,
                     .num_rows = rows.end - rows.begin,
                     .panels = work.keys,
                     .panel_stride = panel_stride_of(key_dim),
                     .num_panels = num_panels_of(num_valid),
                     .num_k = key_dim,
                     .out = scores,
                     .out_stride = kKeysABlock,
                     .accumulate = false});
  for (int64_t row_idx = rows.begin; row_idx < rows.end; ++row_idx) {
    const float factor = kernels_.softmax_block({.scores = work.scores + row_idx * kKeysABlock,
                                                 .num_valid = num_valid,
                                                 .scale = shape.softmax_scale,
                                                 .maximum = work.maximum + row_idx,
                                                 .sum = work.total + row_idx});
    if (factor != 1.0f) kernels_.scale(work.sums + row_idx * sum_stride, value_dim, factor);
  }
  kernels_.gemm_f32({.x = scores,
                     .x_stride = kKeysABlock,
                     .num_rows = rows.end - rows.begin,
                     .panels = work.values,
                     .panel_stride = panel_stride_of(kKeysABlock),
                     .num_panels = num_panels_of(value_dim),
                     .num_k = num_valid,
                     .out = work.sums + rows.begin * sum_stride,
                     .out_stride = sum_stride,
                     .accumulate = true});
}

// Divides by the sum of weights; absorbed: o = W_UV o~ (9).
void MlaAttention::finish(const Args& args, const Tile& tile, const Work& work) const {
  const MlaShape& shape = args.kv_b.shape();
  const bool expanded = args.form == MlaForm::kExpanded;
  const int64_t value_dim = expanded ? shape.v_head_dim : shape.kv_lora_rank;
  const int64_t sum_stride = work.layout.sum_stride;
  for (int32_t row = 0; row < tile.num_rows(); ++row) {
    kernels_.scale(work.sums + row * sum_stride, value_dim, 1.0f / work.total[row]);
  }
  for (int32_t head = 0; head < tile.num_heads; ++head) {
    const int64_t head_idx = tile.head_begin + head;
    const float* rows = work.sums + head * sum_stride;
    int64_t stride = tile.num_heads * sum_stride;
    if (!expanded) {
      kernels_.gemm_f32({.x = rows,
                         .x_stride = stride,
                         .num_rows = tile.num_tokens,
                         .panels = args.kv_b.uv(head_idx),
                         .panel_stride = args.kv_b.uv_panel_stride(),
                         .num_panels = num_panels_of(shape.v_head_dim),
                         .num_k = shape.kv_lora_rank,
                         .out = work.wide_out,
                         .out_stride = work.layout.wide_stride,
                         .accumulate = false});
      rows = work.wide_out;
      stride = work.layout.wide_stride;
    }
    for (int32_t token = 0; token < tile.num_tokens; ++token) {
      kernels_.narrow(rows + token * stride, shape.v_head_dim,
                      bits_of(&args.out(tile.item->token_begin + tile.token_begin + token,
                                        head_idx * shape.v_head_dim)));
    }
  }
}

}  // namespace tandem::gpu::host
