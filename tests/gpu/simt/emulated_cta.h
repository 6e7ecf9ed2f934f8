// The Cta that kernel bodies see in the tests: the interface of DeviceCta
// (gpu/cuda/simt/device_cta.cuh), one object a thread over an EmulatedBlock.
#pragma once

#include <bit>
#include <cstring>
#include <functional>
#include <vector>

#include "gpu/cuda/simt/host_device.h"
#include "tests/gpu/simt/emulated_block.h"

namespace tandem::gpu::simt {

template <typename T>
class EmulatedShared {
 public:
  EmulatedShared(EmulatedBlock& block, int thread_idx, int64_t offset_bytes, int64_t num)
      : block_(&block), thread_idx_(thread_idx), offset_bytes_(offset_bytes), num_(num) {
    if (offset_bytes + num * int64_t{sizeof(T)} > block.shape().shared_size_bytes)
      block.fail(thread_idx, "shared memory: an array reaches beyond the end");
  }

  [[nodiscard]] T load(int64_t idx) const { return load_as<T>(idx); }
  void store(int64_t idx, T value) const { store_as(idx, value); }
  [[nodiscard]] Words4 load16(int64_t idx) const { return load_as<Words4>(idx); }
  void store16(int64_t idx, Words4 value) const { store_as(idx, value); }
  [[nodiscard]] uint32_t load_pair(int64_t idx) const { return load_as<uint32_t>(idx); }
  void store_pair(int64_t idx, uint32_t value) const { store_as(idx, value); }
  // Atomic accesses do not race with each other: each is as if it were alone.
  T atomic_add(int64_t idx, T value) const {
    std::byte* target = memory<T>(idx, EmulatedBlock::AccessKind::kAtomicAdd);
    T before;
    std::memcpy(&before, target, sizeof before);
    const T after = before + value;
    std::memcpy(target, &after, sizeof after);
    return before;
  }

  template <typename As>
  [[nodiscard]] int64_t offset_of(int64_t idx) const {
    constexpr int64_t kNum = sizeof(As) / sizeof(T);
    if (idx < 0 || idx + kNum > num_)
      block_->fail(thread_idx_,
                   "shared memory: element " + std::to_string(idx) + " of " + std::to_string(num_));
    return offset_bytes_ + idx * int64_t{sizeof(T)};
  }

 private:
  template <typename As>
  [[nodiscard]] std::byte* memory(int64_t idx, EmulatedBlock::AccessKind kind) const {
    return block_->shared_memory(thread_idx_, offset_of<As>(idx), sizeof(As), kind);
  }
  template <typename As>
  [[nodiscard]] As load_as(int64_t idx) const {
    As value;
    std::memcpy(&value, memory<As>(idx, EmulatedBlock::AccessKind::kRead), sizeof value);
    return value;
  }
  template <typename As>
  void store_as(int64_t idx, As value) const {
    std::memcpy(memory<As>(idx, EmulatedBlock::AccessKind::kWrite), &value, sizeof value);
  }

  EmulatedBlock* block_;
  int thread_idx_;
  int64_t offset_bytes_;
  int64_t num_;
};

class EmulatedCta {
 public:
  EmulatedCta(EmulatedBlock& block, int thread_idx) : block_(block), thread_idx_(thread_idx) {}

  [[nodiscard]] int thread_idx() const { return thread_idx_; }
  [[nodiscard]] int num_threads() const { return block_.shape().num_threads; }
  [[nodiscard]] int lane_idx() const { return thread_idx_ % kWarpSize; }
  [[nodiscard]] int warp_idx() const { return thread_idx_ / kWarpSize; }
  [[nodiscard]] int64_t block_x() const { return block_.block_x(); }
  [[nodiscard]] int block_y() const { return block_.block_y(); }
  [[nodiscard]] int block_z() const { return block_.block_z(); }
  [[nodiscard]] int64_t grid_x() const { return block_.shape().grid_x; }

  template <typename T>
  [[nodiscard]] EmulatedShared<T> shared(int64_t offset_bytes, int64_t num) const {
    return {block_, thread_idx_, offset_bytes, num};
  }

  void wait_for_previous(int line = __builtin_LINE()) const {
    block_.wait_for_previous(thread_idx_, line);
  }
  [[nodiscard]] bool has_waited() const { return block_.has_waited(thread_idx_); }

  void sync(int line = __builtin_LINE()) const { block_.sync_block(thread_idx_, line); }
  void sync_warp(int line = __builtin_LINE()) const {
    block_.sync_warp(thread_idx_, {}, "sync_warp", line);
  }
  template <typename T>
  T shuffle_xor(T value, int lane_mask, int line = __builtin_LINE()) const {
    return exchange(value, lane_idx() ^ lane_mask, "shuffle_xor", line);
  }
  template <typename T>
  T shuffle(T value, int source_lane, int line = __builtin_LINE()) const {
    return exchange(value, source_lane, "shuffle", line);
  }

  [[nodiscard]] Words4 load16_streamed(const void* source) const { return load<Words4>(source); }
  [[nodiscard]] Words2 load8_streamed(const void* source) const { return load<Words2>(source); }
  [[nodiscard]] uint32_t load4_streamed(const void* source) const { return load<uint32_t>(source); }
  void prefetch(const void*) const {}
  [[nodiscard]] Words4 load16(const void* source) const {
    check_waited();
    return load<Words4>(source);
  }
  void store16(void* target, Words4 value) const { store(target, value); }
  void store8(void* target, Words2 value) const { store(target, value); }
  int32_t atomic_add(int32_t* target, int32_t value) const {
    check_waited();
    const int32_t before = *target;
    *target = before + value;
    return before;
  }

  template <typename T>
  void copy16_async(EmulatedShared<T> target,
                    int64_t idx,
                    const void* source,
                    int num_valid_bytes) const {
    check_waited();
    block_.begin_copy(thread_idx_, target.template offset_of<Words4>(idx), source, num_valid_bytes);
  }
  void commit_copies() const { block_.commit_copies(thread_idx_); }
  template <int kNumPending>
  void wait_copies() const {
    block_.wait_copies(thread_idx_, kNumPending);
  }

  template <bool kTransposed>
  void load_matrices(EmulatedShared<bf16> source,
                     int64_t idx,
                     uint32_t (&r)[4],
                     int line = __builtin_LINE()) const {
    const Words4 row = source.load16(idx);
    const WarpWords& rows = block_.sync_warp(thread_idx_, {row.w[0], row.w[1], row.w[2], row.w[3]},
                                             "load_matrices", line);
    // Element (row, col) of matrix m: half col % 2 of word col / 2 that lane 8 m + row offered.
    const auto element = [&](int m, int row_idx, int col_idx) {
      const LaneWords& words = rows[static_cast<size_t>(8 * m + row_idx)];
      return words[static_cast<size_t>(col_idx / 2)] >> (col_idx % 2 * 16) & 0xffffu;
    };
    const int major = lane_idx() / 4;
    const int minor = 2 * (lane_idx() % 4);
    for (int m = 0; m < 4; ++m) {
      r[m] = kTransposed ? element(m, minor, major) | element(m, minor + 1, major) << 16
                         : element(m, major, minor) | element(m, major, minor + 1) << 16;
    }
  }

  void mma(float (&c)[4],
           const uint32_t (&a)[4],
           const uint32_t (&b)[2],
           int line = __builtin_LINE()) const {
    const WarpWords& words =
        block_.sync_warp(thread_idx_, {a[0], a[1], a[2], a[3], b[0], b[1]}, "mma", line);
    const int g = lane_idx() / 4;
    const int t = lane_idx() % 4;
    for (int idx = 0; idx < 4; ++idx) {
      const int row_half = idx / 2;  // rows g and g + 8
      const int col = 2 * t + idx % 2;
      float sum = 0.0f;
      for (int pair = 0; pair < 8; ++pair) {  // columns 2 pair and 2 pair + 1 of A
        const auto lane = static_cast<size_t>(pair % 4);
        const auto col_half = static_cast<size_t>(pair / 4);
        const uint32_t a_pair =
            words[static_cast<size_t>(4 * g) + lane][static_cast<size_t>(row_half) + 2 * col_half];
        const uint32_t b_pair = words[static_cast<size_t>(4 * col) + lane][4 + col_half];
        sum += low_of(a_pair) * low_of(b_pair);
        sum += high_of(a_pair) * high_of(b_pair);
      }
      c[idx] += sum;
    }
  }

 private:
  template <typename T>
  T exchange(T value, int source_lane, const char* what, int line) const {
    static_assert(sizeof(T) == sizeof(uint32_t) || sizeof(T) == sizeof(uint64_t));
    if (source_lane < 0 || source_lane >= kWarpSize) block_.fail(thread_idx_, "no such lane");
    LaneWords mine{};
    std::memcpy(mine.data(), &value, sizeof value);
    const WarpWords& words = block_.sync_warp(thread_idx_, mine, what, line);
    std::memcpy(&value, words[static_cast<size_t>(source_lane)].data(), sizeof value);
    return value;
  }
  template <typename T>
  [[nodiscard]] T load(const void* source) const {
    check_aligned<T>(source);
    T value;
    std::memcpy(&value, source, sizeof value);
    return value;
  }
  template <typename T>
  void store(void* target, T value) const {
    check_waited();
    check_aligned<T>(target);
    std::memcpy(target, &value, sizeof value);
  }
  void check_waited() const {
    if (!has_waited())
      block_.fail(thread_idx_, "memory of the kernels before, without having waited for them");
  }
  template <typename T>
  void check_aligned(const void* address) const {
    if (reinterpret_cast<uintptr_t>(address) % sizeof(T) != 0)
      block_.fail(thread_idx_,
                  "an address of " + std::to_string(sizeof(T)) + " bytes that is not aligned");
  }

  EmulatedBlock& block_;
  int thread_idx_;
};

// Runs a kernel (gpu/cuda/simt/launch.cuh says what that is) on the CPU, CTA after CTA. `previous`
// runs the kernels before it: as late as a dependent launch may see them done.
template <typename Kernel>
void emulate(const typename Kernel::Params& params,
             ThreadOrder order,
             const std::function<void()>& previous = {}) {
  const LaunchShape shape = Kernel::launch_shape(params);
  const int64_t num_blocks = shape.grid_x * shape.grid_y * shape.grid_z;
  if (num_blocks == 0) {
    if (previous) previous();
    return;
  }
  if (shape.num_threads > Kernel::kMaxThreads) throw EmulationError("more threads than promised");
  if (shape.grid_x > 0x7fffffff || shape.grid_y > 65535 || shape.grid_z > 65535)
    throw EmulationError("the grid is too large");
  EmulatedBlock block(shape, order, previous);
  for (int64_t turn = 0; turn < num_blocks; ++turn) {
    const int64_t block_idx = order == ThreadOrder::kForward ? turn : num_blocks - 1 - turn;
    block.run(block_idx % shape.grid_x, static_cast<int>(block_idx / shape.grid_x % shape.grid_y),
              static_cast<int>(block_idx / shape.grid_x / shape.grid_y),
              [&](EmulatedBlock& running, int thread_idx) {
                EmulatedCta cta(running, thread_idx);
                if constexpr (!waits_itself<Kernel>) cta.wait_for_previous();
                Kernel::run(cta, params);
                if (!cta.has_waited()) running.fail(thread_idx, "ends without having waited");
              });
  }
}

}  // namespace tandem::gpu::simt
