#include "runtime/model/expert_reader.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <exception>
#include <mutex>
#include <thread>
#include <utility>
#include <vector>

#include "runtime/base/check.h"
#include "runtime/memory/numa_buffer.h"
#include "runtime/model/file_reader.h"

namespace tandem {
namespace {

// Experts read ahead of those that workers hold, each by a thread of its own: enough large reads in
// flight for a fast disk, memory of a few experts.
int num_ahead(int num_workers) { return std::clamp(num_workers / 8, 2, 16); }

// Neighbours in a file that one read fetches together with what lies between them.
constexpr int64_t kMaxGapBytes = int64_t{64} << 10;

int64_t align_down(int64_t value) {
  return value / FileReader::kAlignmentBytes * FileReader::kAlignmentBytes;
}
int64_t align_up(int64_t value) { return align_down(value + FileReader::kAlignmentBytes - 1); }

// A part of a shard, [begin, end), and where the buffer holds it.
struct Extent {
  int32_t shard_idx = 0;
  int64_t begin = 0, end = 0;
  int64_t buffer_offset_bytes = 0;
  [[nodiscard]] int64_t aligned_size_bytes() const { return align_up(end) - align_down(begin); }
};

std::vector<Extent> extents_of(std::vector<const TensorInfo*> tensors) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorInfo* left, const TensorInfo* right) {
    return std::pair(left->shard_idx, left->file_offset_bytes) <
           std::pair(right->shard_idx, right->file_offset_bytes);
  });
  std::vector<Extent> extents;
  for (const TensorInfo* tensor : tensors) {
    const int64_t end = tensor->file_offset_bytes + tensor->size_bytes;
    if (!extents.empty() && extents.back().shard_idx == tensor->shard_idx &&
        tensor->file_offset_bytes - extents.back().end <= kMaxGapBytes) {
      extents.back().end = end;
      continue;
    }
    extents.push_back(
        {.shard_idx = tensor->shard_idx, .begin = tensor->file_offset_bytes, .end = end});
  }
  int64_t offset_bytes = 0;
  for (Extent& extent : extents) {
    extent.buffer_offset_bytes = offset_bytes;
    offset_bytes += extent.aligned_size_bytes();
  }
  return extents;
}

}  // namespace

struct ExpertReader::Impl {
  enum class State { kToRead, kMapped, kRead };
  // Memory for one expert; taken by the first direct read.
  struct Slot {
    NumaBuffer buffer;
    std::vector<Extent> extents;
  };
  struct Entry {
    State state = State::kToRead;
    Slot* slot = nullptr;  // held from the decision how to read to the last user's end
    int num_users_left = 0;
  };

  const Checkpoint& checkpoint;
  const ExpertReaderOptions options;
  const int64_t num_experts;
  std::vector<int32_t> moe_layers;
  std::vector<std::unique_ptr<FileReader>> files;  // by shard; null until it is needed
  std::vector<Checkpoint::ExpertScratch> scratch;  // of every worker

  std::mutex mutex;
  std::condition_variable slot_freed, expert_ready;
  std::deque<Slot> slots;  // never moved
  std::vector<Slot*> free_slots;
  std::vector<Entry> entries;  // of all MoE layers' experts, in their order
  std::vector<int64_t> held;   // the entry of every worker's last call; -1: none
  int64_t next_to_read = 0;
  std::exception_ptr error;
  bool stopping = false;
  std::atomic<int64_t> direct_read_bytes{0};
  std::vector<std::thread> threads;

  Impl(const Checkpoint& checkpoint_in, const ExpertReaderOptions& options_in);
  ~Impl();
  [[nodiscard]] std::vector<const TensorInfo*> tensors_of(int64_t entry_idx) const;
  [[nodiscard]] FileReader& file_of(int32_t shard_idx);
  void read_ahead();
  State read(int64_t entry_idx, Slot& slot);
  void give_back(int32_t worker_idx);
};

ExpertReader::Impl::Impl(const Checkpoint& checkpoint_in, const ExpertReaderOptions& options_in)
    : checkpoint(checkpoint_in),
      options(options_in),
      num_experts(checkpoint_in.config().n_routed_experts),
      files(checkpoint_in.index().shards().size()),
      scratch(static_cast<size_t>(options_in.num_workers)),
      held(static_cast<size_t>(options_in.num_workers), -1) {
  for (int32_t layer_idx = 0; layer_idx < checkpoint.config().num_hidden_layers; ++layer_idx) {
    if (!checkpoint.config().is_dense(layer_idx)) moe_layers.push_back(layer_idx);
  }
  entries.resize(moe_layers.size() * static_cast<size_t>(num_experts),
                 {.num_users_left = options.num_users});
  const int64_t num_single_use = options.num_single_use_layers * num_experts;
  for (int64_t idx = 0; idx < num_single_use; ++idx) {
    entries[static_cast<size_t>(idx)].num_users_left = 1;
  }
  // BF16 experts are quantised from the mapping: a direct read would need four times the memory.
  const bool is_mapped =
      options.reading == ExpertReading::kMapped || !checkpoint.config().experts_int4;
  if (is_mapped) {
    for (Entry& entry : entries) entry.state = State::kMapped;
    return;
  }
  // A worker holds one expert at most: whatever the others wait for, some are left to read into.
  const int ahead = num_ahead(options.num_workers);
  for (int slot_idx = 0; slot_idx < options.num_workers + ahead; ++slot_idx) {
    free_slots.push_back(&slots.emplace_back());
  }
  for (int thread_idx = 0; thread_idx < ahead; ++thread_idx) {
    threads.emplace_back([this] { read_ahead(); });
  }
}

ExpertReader::Impl::~Impl() {
  {
    const std::lock_guard lock(mutex);
    stopping = true;
  }
  slot_freed.notify_all();
  for (std::thread& thread : threads) thread.join();
  for (size_t worker_idx = 0; worker_idx < held.size(); ++worker_idx) {
    give_back(static_cast<int32_t>(worker_idx));
  }
}

std::vector<const TensorInfo*> ExpertReader::Impl::tensors_of(int64_t entry_idx) const {
  return checkpoint.expert_infos(moe_layers[entry_idx / num_experts],
                                 static_cast<int32_t>(entry_idx % num_experts));
}

FileReader& ExpertReader::Impl::file_of(int32_t shard_idx) {
  const std::lock_guard lock(mutex);
  std::unique_ptr<FileReader>& file = files[shard_idx];
  if (file == nullptr) {
    file = std::make_unique<FileReader>(checkpoint.index().shards()[shard_idx]);
  }
  return *file;
}

// The body of a reading thread: the next expert, as soon as there is a slot.
void ExpertReader::Impl::read_ahead() {
  std::unique_lock lock(mutex);
  while (true) {
    slot_freed.wait(lock, [&] {
      return stopping || error || next_to_read == static_cast<int64_t>(entries.size()) ||
             !free_slots.empty();
    });
    if (stopping || error || next_to_read == static_cast<int64_t>(entries.size())) return;
    const int64_t entry_idx = next_to_read++;
    Slot* const slot = free_slots.back();
    free_slots.pop_back();
    lock.unlock();
    State state = State::kToRead;
    std::exception_ptr failure;
    try {
      state = read(entry_idx, *slot);
    } catch (...) {
      failure = std::current_exception();
    }
    lock.lock();
    if (failure && !error) error = failure;
    entries[entry_idx].state = state;
    entries[entry_idx].slot = slot;
    expert_ready.notify_all();
  }
}

ExpertReader::Impl::State ExpertReader::Impl::read(int64_t entry_idx, Slot& slot) {
  slot.extents = extents_of(tensors_of(entry_idx));
  if (options.reading == ExpertReading::kAuto) {
    const bool is_cached =
        std::all_of(slot.extents.begin(), slot.extents.end(), [&](const Extent& extent) {
          return file_of(extent.shard_idx).is_cached(extent.begin, extent.end - extent.begin);
        });
    if (is_cached) return State::kMapped;
  }
  const Extent& last = slot.extents.back();
  const int64_t needed_size_bytes = last.buffer_offset_bytes + last.aligned_size_bytes();
  if (slot.buffer.size_bytes() < needed_size_bytes) slot.buffer = NumaBuffer(needed_size_bytes, -1);
  for (const Extent& extent : slot.extents) {
    const int64_t begin = align_down(extent.begin);
    const std::span target(slot.buffer.data() + extent.buffer_offset_bytes,
                           static_cast<size_t>(extent.aligned_size_bytes()));
    file_of(extent.shard_idx).read(begin, target, extent.end - begin);
    direct_read_bytes.fetch_add(extent.end - extent.begin, std::memory_order_relaxed);
  }
  return State::kRead;
}

// Ends the use of what the worker's last call returned.
void ExpertReader::Impl::give_back(int32_t worker_idx) {
  const int64_t entry_idx = std::exchange(held[worker_idx], -1);
  if (entry_idx < 0) return;
  Entry& entry = entries[entry_idx];
  {
    const std::lock_guard lock(mutex);
    if (--entry.num_users_left > 0) return;
    if (entry.slot != nullptr) {
      free_slots.push_back(entry.slot);
      slot_freed.notify_one();
    }
  }
  if (entry.state == State::kMapped) {
    for (const TensorInfo* tensor : tensors_of(entry_idx)) checkpoint.index().release(*tensor);
  }
}

ExpertReader::ExpertReader(const Checkpoint& checkpoint, const ExpertReaderOptions& options)
    : impl_(std::make_unique<Impl>(checkpoint, options)) {}
ExpertReader::~ExpertReader() = default;

int64_t ExpertReader::direct_read_bytes() const { return impl_->direct_read_bytes.load(); }

ExpertTensors ExpertReader::expert(int32_t layer_idx, int32_t expert_idx, int32_t worker_idx) {
  Impl& reader = *impl_;
  reader.give_back(worker_idx);
  const auto layer =
      std::lower_bound(reader.moe_layers.begin(), reader.moe_layers.end(), layer_idx);
  TANDEM_CHECK(layer != reader.moe_layers.end() && *layer == layer_idx, "not a MoE layer");
  const int64_t entry_idx = (layer - reader.moe_layers.begin()) * reader.num_experts + expert_idx;
  const Impl::Entry& entry = reader.entries[entry_idx];
  {
    std::unique_lock lock(reader.mutex);
    reader.expert_ready.wait(lock,
                             [&] { return reader.error || entry.state != Impl::State::kToRead; });
    if (entry.state == Impl::State::kToRead) std::rethrow_exception(reader.error);
  }
  reader.held[worker_idx] = entry_idx;
  const TensorIndex& index = reader.checkpoint.index();
  Checkpoint::ExpertScratch& scratch = reader.scratch[worker_idx];
  if (entry.state == Impl::State::kMapped) {
    for (const TensorInfo* tensor : reader.tensors_of(entry_idx)) index.touch(*tensor);
    return reader.checkpoint.expert(layer_idx, expert_idx, scratch);
  }
  const auto bytes_of = [&](const TensorInfo& info) -> std::span<const std::byte> {
    const auto extent = std::find_if(
        entry.slot->extents.begin(), entry.slot->extents.end(), [&](const Extent& candidate) {
          return candidate.shard_idx == info.shard_idx &&
                 candidate.begin <= info.file_offset_bytes &&
                 info.file_offset_bytes + info.size_bytes <= candidate.end;
        });
    TANDEM_CHECK(extent != entry.slot->extents.end(), "a tensor that was not read");
    return {entry.slot->buffer.data() + extent->buffer_offset_bytes + info.file_offset_bytes -
                align_down(extent->begin),
            static_cast<size_t>(info.size_bytes)};
  };
  return reader.checkpoint.expert(layer_idx, expert_idx, scratch, bytes_of);
}

}  // namespace tandem
