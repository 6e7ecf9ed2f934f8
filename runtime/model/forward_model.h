// The one interface between serving and arithmetic: offload::KimiK2 and tests' FakeModel implement
// it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "runtime/base/check.h"
#include "runtime/base/decode_reads.h"
#include "runtime/base/device_launches.h"
#include "runtime/base/matrix_view.h"
#include "runtime/base/model_memory.h"
#include "runtime/base/progress.h"
#include "runtime/base/token_choice.h"

namespace tandem {

// KV is cached in pages of 64 tokens; a page holds all layers of its tokens.
inline constexpr int kPageSizeTokens = 64;

// One sequence's part of a step: `num_tokens` new tokens behind `context_size_tokens` cached ones.
struct BatchItem {
  int32_t token_begin = 0;          // index of its first token in Batch::token_ids
  int32_t num_tokens = 0;           // 1 for a decode, up to the chunk size for a prefill
  int32_t context_size_tokens = 0;  // tokens already in the cache = position of the first new token
  std::span<const int32_t> page_ids;  // [ceil((context_size_tokens + num_tokens) / 64)], at least
};

struct Batch {
  std::span<const int32_t> token_ids;        // [num_tokens] of all items, one after the other
  std::span<const BatchItem> items;          // in the order of token_begin
  std::span<const int32_t> logit_token_idx;  // [num_logit_rows] indices into token_ids, ascending
};

// A KV page beside the memory that its contents are copied to, or come from.
struct KvPageBytes {
  int32_t page_id = 0;
  std::span<std::byte> bytes;  // [kv_page_size_bytes()]
};

class ForwardModel {
 public:
  virtual ~ForwardModel() = default;

  // Runs every layer for `batch`, appends its KV to the pages named, and writes
  // logits [num_logit_rows, vocab_size] (fp32, host memory).
  // The logits of a token do not depend, beyond rounding, on what else is in the batch or on how
  // its prompt was cut; on the host not to the bit. Throws only when the device or a worker failed;
  // the engine then stays failed.
  virtual void forward(const Batch& batch, MatrixView<float> logits) = 0;

  // Whether the model can choose tokens where it computes, so that logits need not leave it.
  [[nodiscard]] virtual bool chooses_tokens() const { return false; }
  // forward(), but token_ids[i] = the token that choices[i] draws from row i of the logits, -1
  // where none is possible. Only of a model that chooses_tokens(). The host's choice but for draws
  // that come within 1e-8 of a boundary between two tokens.
  //   choices, token_ids [num_logit_rows]
  virtual void forward_and_choose(const Batch& batch,
                                  std::span<const TokenChoice> choices,
                                  std::span<int32_t> token_ids) {
    static_cast<void>(batch);
    static_cast<void>(choices);
    static_cast<void>(token_ids);
    TANDEM_CHECK(false, "forward_and_choose: this model does not choose tokens");
  }

  // Gives memory back; a model that holds none of a kind has nothing to do. No step until all of it
  // has been restored. What the pages held is gone with the KV cache.
  virtual void release_memory(const ModelMemory& what) { static_cast<void>(what); }
  // Takes memory again that was released: weights as they were, an empty KV cache. When it throws,
  // what was released is released still, and it may be tried again: LoadError where memory is
  // missing, with what is and a memory map; what `progress` throws.
  virtual void restore_memory(const ModelMemory& what, const ProgressFn& progress) {
    static_cast<void>(what);
    static_cast<void>(progress);
  }

  // Bytes of a KV page, all layers; 0: pages cannot be copied, and the four below mean nothing.
  [[nodiscard]] virtual int64_t kv_page_size_bytes() const { return 0; }
  // Copies pages out of the model's memory and back into it, maybe of another run: between steps,
  // while the KV cache is there, no page twice in a call. `bytes` is any memory of the host.
  virtual void read_kv_pages(std::span<const KvPageBytes> pages) { static_cast<void>(pages); }
  virtual void write_kv_pages(std::span<const KvPageBytes> pages) { static_cast<void>(pages); }
  // All that a page's bytes depend on besides its tokens: pages of models of one identity can stand
  // for each other, with the promise of forward().
  [[nodiscard]] virtual std::string kv_identity() const { return ""; }
  // Host memory that was planned for copies of pages.
  [[nodiscard]] virtual int64_t kv_host_size_bytes() const { return 0; }

  [[nodiscard]] virtual int32_t vocab_size() const = 0;
  [[nodiscard]] virtual int32_t num_kv_pages() const = 0;  // pages 0 .. num_kv_pages-1 may be named
  [[nodiscard]] virtual int32_t max_batch_tokens() const = 0;  // limit of Batch::token_ids
  // Limit of Batch::logit_token_idx; of Batch::items, too, where it is above 256.
  [[nodiscard]] virtual int32_t max_logit_rows() const = 0;
  [[nodiscard]] virtual int32_t max_context_tokens() const = 0;  // max_position_embeddings or less

  // What a decode step of `num_sequences` at `context_size_tokens` each must read: weights, the
  // distinct experts expected, KV. What `tandem bench` divides by the measured bandwidths. Nothing:
  // unknown.
  [[nodiscard]] virtual DecodeReads decode_reads(int32_t num_sequences,
                                                 int32_t context_size_tokens) const {
    static_cast<void>(num_sequences);
    static_cast<void>(context_size_tokens);
    return {};
  }
  // Copies within the cards' memory, measured now, between steps: bytes read and written, of all
  // cards one after the other. 0: no card.
  [[nodiscard]] virtual double measure_card_gb_per_s() { return 0.0; }
  // What the last step replayed of recordings on its devices; zeros where nothing was.
  [[nodiscard]] virtual DeviceLaunches replayed_launches() const { return {}; }
  [[nodiscard]] virtual std::string description() const {
    return "";
  }  // memory map, for the start-up log
};

}  // namespace tandem
