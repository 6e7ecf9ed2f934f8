#include "tests/gpu/simt/emulated_block.h"

#include <algorithm>
#include <cstring>
#include <random>
#include <utility>

namespace tandem::gpu::simt {
namespace {

constexpr int64_t kGranuleSizeBytes = 2;
constexpr int kMany = -2;
constexpr int kAtomic = -3;
constexpr int kPoison = 0xff;  // bytes of a NaN, as BF16 and as FP32; -1 as an integer
constexpr int64_t kCopySizeBytes = 16;

}  // namespace

EmulatedBlock::EmulatedBlock(const LaunchShape& shape,
                             ThreadOrder order,
                             std::function<void()> previous)
    : shape_(shape),
      order_(order),
      previous_(std::move(previous)),
      threads_(std::make_unique<Thread[]>(static_cast<size_t>(shape.num_threads))),
      turn_(static_cast<size_t>(shape.num_threads)),
      offered_(static_cast<size_t>(shape.num_threads / kWarpSize)),
      shared_(new std::byte[static_cast<size_t>(shape.shared_size_bytes)]),
      granules_(static_cast<size_t>(shape.shared_size_bytes / kGranuleSizeBytes)),
      collective_(static_cast<size_t>(shape.num_threads / kWarpSize), 0) {
  if (shape.num_threads % kWarpSize != 0 || shape.num_threads > 1024 || shape.num_threads == 0)
    throw EmulationError("a CTA is 1 to 32 whole warps");
  if (shape.shared_size_bytes > 227 * 1024 || shape.shared_size_bytes % 16 != 0)
    throw EmulationError("shared memory is a multiple of 16 bytes and at most 227 KiB");
  for (int idx = 0; idx < shape.num_threads; ++idx) {
    threads_[static_cast<size_t>(idx)].block = this;
    threads_[static_cast<size_t>(idx)].thread_idx = idx;
    turn_[static_cast<size_t>(idx)] = idx;
  }
  if (order == ThreadOrder::kReverse) std::reverse(turn_.begin(), turn_.end());
  if (order == ThreadOrder::kShuffled) std::shuffle(turn_.begin(), turn_.end(), std::mt19937(1));
}

// An error unwinds the fiber that found it; what the others hold needs no destructor.
void EmulatedBlock::thread_main(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  try {
    (*thread.block->body_)(*thread.block, thread.thread_idx);
    if (!thread.uncommitted.empty() || !thread.committed.empty())
      thread.block->fail(thread.thread_idx, "ends with copies that it did not wait for");
  } catch (const EmulationError& error) {
    thread.block->error_ = error.what();
  }
  thread.state = State::kDone;
}

void EmulatedBlock::run(int64_t block_x, int block_y, int block_z, Body body) {
  block_x_ = block_x;
  block_y_ = block_y;
  block_z_ = block_z;
  body_ = &body;
  ++barrier_;
  std::memset(shared_.get(), kPoison, static_cast<size_t>(shape_.shared_size_bytes));
  for (const int thread_idx : turn_) {
    Thread& thread = threads_[static_cast<size_t>(thread_idx)];
    thread.state = State::kReady;
    thread.has_waited = false;
    thread.fiber.start(&EmulatedBlock::thread_main, &thread);
  }
  for (;;) {
    bool all_done = true;
    for (const int thread_idx : turn_) {
      Thread& thread = threads_[static_cast<size_t>(thread_idx)];
      if (thread.state == State::kReady) thread.fiber.resume();
      if (!error_.empty()) throw EmulationError(error_);
      all_done = all_done && thread.state == State::kDone;
    }
    if (all_done) return;
    const bool warps_go_on = release_warps();
    if (!warps_go_on && !release_barrier() && !release_previous()) report_stuck();
  }
}

std::string EmulatedBlock::place_of(int thread_idx) const {
  const Thread& thread = threads_[static_cast<size_t>(thread_idx)];
  std::string text = "thread " + std::to_string(thread_idx);
  if (thread.state == State::kDone) return text + " has ended";
  return text + " is at " + thread.what + ", line " + std::to_string(thread.line);
}

void EmulatedBlock::fail(int thread_idx, const std::string& what) const {
  throw EmulationError("CTA (" + std::to_string(block_x_) + ", " + std::to_string(block_y_) + ", " +
                       std::to_string(block_z_) + "), thread " + std::to_string(thread_idx) + ": " +
                       what);
}

void EmulatedBlock::report_stuck() {
  check_same_place(0, shape_.num_threads);
  throw EmulationError("divergence: " + place_of(0));
}

// --- barriers and collectives

void EmulatedBlock::wait(Thread& thread, State state, const char* what, int line) {
  thread.state = state;
  thread.what = what;
  thread.line = line;
  thread.fiber.suspend();
}

void EmulatedBlock::sync_block(int thread_idx, int line) {
  wait(threads_[static_cast<size_t>(thread_idx)], State::kAtBarrier, "a barrier", line);
}

// Two buffers: a lane may be at its next collective before another has read this one's words, but
// not at the one after.
const WarpWords& EmulatedBlock::sync_warp(int thread_idx,
                                          const LaneWords& words,
                                          const char* what,
                                          int line) {
  Thread& thread = threads_[static_cast<size_t>(thread_idx)];
  const auto parity = static_cast<size_t>(thread.num_warp_collectives++ % 2);
  WarpWords& offered = offered_[static_cast<size_t>(thread_idx / kWarpSize)][parity];
  offered[static_cast<size_t>(thread_idx % kWarpSize)] = words;
  wait(thread, State::kAtWarp, what, line);
  return offered;
}

void EmulatedBlock::check_same_place(int begin, int end) {
  const Thread& first = threads_[static_cast<size_t>(begin)];
  for (int idx = begin + 1; idx < end; ++idx) {
    const Thread& other = threads_[static_cast<size_t>(idx)];
    if (other.state != first.state || other.line != first.line || other.what != first.what)
      throw EmulationError("divergence: " + place_of(begin) + ", " + place_of(idx));
  }
}

bool EmulatedBlock::release_warps() {
  bool any = false;
  for (int begin = 0; begin < shape_.num_threads; begin += kWarpSize) {
    const auto is_here = [](const Thread& thread) { return thread.state == State::kAtWarp; };
    Thread* lanes = threads_.get() + begin;
    if (!std::all_of(lanes, lanes + kWarpSize, is_here)) continue;
    check_same_place(begin, begin + kWarpSize);
    ++collective_[static_cast<size_t>(begin / kWarpSize)];
    for (int lane = 0; lane < kWarpSize; ++lane) lanes[lane].state = State::kReady;
    any = true;
  }
  return any;
}

bool EmulatedBlock::release_all(State state) {
  for (int idx = 0; idx < shape_.num_threads; ++idx) {
    if (threads_[static_cast<size_t>(idx)].state != state) return false;
  }
  check_same_place(0, shape_.num_threads);
  for (int idx = 0; idx < shape_.num_threads; ++idx)
    threads_[static_cast<size_t>(idx)].state = State::kReady;
  return true;
}

bool EmulatedBlock::release_barrier() {
  if (!release_all(State::kAtBarrier)) return false;
  ++barrier_;
  return true;
}

// On a card it is no barrier: the emulator holds all threads there so that what stands in front of
// it runs as early as it may.
bool EmulatedBlock::release_previous() {
  if (!release_all(State::kAtPrevious)) return false;
  if (previous_) std::exchange(previous_, {})();
  return true;
}

void EmulatedBlock::wait_for_previous(int thread_idx, int line) {
  Thread& thread = threads_[static_cast<size_t>(thread_idx)];
  if (thread.has_waited) fail(thread_idx, "waits for the kernels before a second time");
  wait(thread, State::kAtPrevious, "the wait for the kernels before", line);
  thread.has_waited = true;
}

// --- shared memory

bool EmulatedBlock::is_ordered(const Access& earlier, int thread_idx) const {
  if (earlier.barrier != barrier_ || earlier.thread_idx == thread_idx) return true;
  const int warp_idx = thread_idx / kWarpSize;
  return earlier.warp_idx == warp_idx &&
         earlier.collective != collective_[static_cast<size_t>(warp_idx)];
}

void EmulatedBlock::check_race(const Access& earlier,
                               const char* what,
                               int thread_idx,
                               int64_t byte) {
  if (is_ordered(earlier, thread_idx)) return;
  const std::string who = earlier.thread_idx == kMany ? "several threads"
                          : earlier.thread_idx == kAtomic
                              ? "an atomic operation"
                              : "thread " + std::to_string(earlier.thread_idx);
  fail(thread_idx, "race: byte " + std::to_string(byte) + " of shared memory, " + what + who);
}

std::byte* EmulatedBlock::shared_memory(int thread_idx,
                                        int64_t offset,
                                        int64_t size_bytes,
                                        AccessKind kind) {
  if (offset < 0 || offset + size_bytes > shape_.shared_size_bytes)
    fail(thread_idx, "shared memory: bytes " + std::to_string(offset) + " to " +
                         std::to_string(offset + size_bytes) + " of " +
                         std::to_string(shape_.shared_size_bytes));
  if (offset % size_bytes != 0)
    fail(thread_idx, "shared memory: byte " + std::to_string(offset) + " is not aligned");
  const int warp_idx = thread_idx / kWarpSize;
  const Access now{thread_idx, warp_idx, barrier_, collective_[static_cast<size_t>(warp_idx)]};
  for (int64_t byte = offset; byte < offset + size_bytes; byte += kGranuleSizeBytes) {
    Granule& granule = granules_[static_cast<size_t>(byte / kGranuleSizeBytes)];
    if (kind != AccessKind::kAtomicAdd || granule.write.thread_idx != kAtomic)
      check_race(granule.write, "written by ", thread_idx, byte);
    if (kind == AccessKind::kRead) {
      Access& read = granule.read;
      const bool by_many = read.barrier == barrier_ && read.thread_idx != thread_idx;
      const bool by_one_warp = read.warp_idx == warp_idx;
      read = now;
      if (by_many) read.thread_idx = kMany;
      if (by_many && !by_one_warp) read.warp_idx = kMany;
      continue;
    }
    check_race(granule.read, "read by ", thread_idx, byte);
    granule.write = now;
    if (kind == AccessKind::kAtomicAdd) granule.write.thread_idx = granule.write.warp_idx = kAtomic;
  }
  return shared_.get() + offset;
}

// --- asynchronous copies

void EmulatedBlock::begin_copy(int thread_idx,
                               int64_t offset,
                               const void* source,
                               int num_valid_bytes) {
  if (num_valid_bytes < 0 || num_valid_bytes > kCopySizeBytes)
    fail(thread_idx, "a copy of " + std::to_string(num_valid_bytes) + " bytes");
  if (reinterpret_cast<uintptr_t>(source) % kCopySizeBytes != 0)
    fail(thread_idx, "a copy from an address that is not aligned");
  std::memset(shared_memory(thread_idx, offset, kCopySizeBytes, AccessKind::kWrite), kPoison,
              kCopySizeBytes);
  threads_[static_cast<size_t>(thread_idx)].uncommitted.push_back(
      {offset, source, num_valid_bytes});
}

void EmulatedBlock::commit_copies(int thread_idx) {
  Thread& thread = threads_[static_cast<size_t>(thread_idx)];
  thread.committed.push_back(std::move(thread.uncommitted));
  thread.uncommitted.clear();
}

void EmulatedBlock::wait_copies(int thread_idx, int num_pending) {
  Thread& thread = threads_[static_cast<size_t>(thread_idx)];
  while (static_cast<int>(thread.committed.size()) > num_pending) {
    for (const Copy& copy : thread.committed.front()) {
      std::byte* target =
          shared_memory(thread_idx, copy.offset, kCopySizeBytes, AccessKind::kWrite);
      std::memset(target, 0, kCopySizeBytes);
      std::memcpy(target, copy.source, static_cast<size_t>(copy.num_valid_bytes));
    }
    thread.committed.pop_front();
  }
}

}  // namespace tandem::gpu::simt
