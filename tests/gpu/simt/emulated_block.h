// One cooperative thread array on the CPU: a fiber a thread, run in turn up to its next collective.
// What the hardware would leave undefined ends the launch with an EmulationError:
//   * a barrier or a collective of a warp that not every thread reaches, or reaches elsewhere;
//   * shared memory out of bounds or of the allocation, or accessed by two threads, one of them
//     writing, without a barrier between them (within a warp: a collective of the warp);
//   * an address of 4 or 16 bytes that is not aligned;
//   * copies that nobody waited for;
//   * a thread that does not wait for the kernels before, or reads or writes global memory that
//     they may have written before it has, as far as that goes through the Cta.
// Shared memory starts as NaN. An asynchronous copy leaves NaN in its target until it is waited
// for.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "gpu/cuda/simt/launch_shape.h"
#include "runtime/base/function_ref.h"
#include "tests/gpu/simt/fiber.h"

namespace tandem::gpu::simt {

struct EmulationError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Which thread runs first, and which CTA: a result that depends on it is a race.
enum class ThreadOrder { kForward, kReverse, kShuffled };

// What the lanes of a warp hand each other in a collective.
using LaneWords = std::array<uint32_t, 8>;
using WarpWords = std::array<LaneWords, kWarpSize>;

class EmulatedBlock {
 public:
  // `previous`: the kernels before, run once all threads of the first CTA wait for them.
  EmulatedBlock(const LaunchShape& shape, ThreadOrder order, std::function<void()> previous = {});

  // Runs `body` on every thread to its end.
  using Body = FunctionRef<void(EmulatedBlock&, int thread_idx)>;
  void run(int64_t block_x, int block_y, int block_z, Body body);

  [[nodiscard]] const LaunchShape& shape() const { return shape_; }
  [[nodiscard]] int64_t block_x() const { return block_x_; }
  [[nodiscard]] int block_y() const { return block_y_; }
  [[nodiscard]] int block_z() const { return block_z_; }

  // From within a thread. `line`: where the kernel calls it.
  void sync_block(int thread_idx, int line);
  // Offers `words`, waits for the other 31 lanes; what they offered, valid until the thread's next
  // collective.
  const WarpWords& sync_warp(int thread_idx, const LaneWords& words, const char* what, int line);
  void wait_for_previous(int thread_idx, int line);
  [[nodiscard]] bool has_waited(int thread_idx) const {
    return threads_[static_cast<size_t>(thread_idx)].has_waited;
  }
  [[noreturn]] void fail(int thread_idx, const std::string& what) const;

  // Address of `size_bytes` (2, 4, 8 or 16) of shared memory, checked for an access of that kind.
  enum class AccessKind { kRead, kWrite, kAtomicAdd };
  std::byte* shared_memory(int thread_idx, int64_t offset, int64_t size_bytes, AccessKind kind);

  void begin_copy(int thread_idx, int64_t offset, const void* source, int num_valid_bytes);
  void commit_copies(int thread_idx);
  void wait_copies(int thread_idx, int num_pending);

 private:
  enum class State { kReady, kAtPrevious, kAtBarrier, kAtWarp, kDone };
  struct Copy {
    int64_t offset;
    const void* source;
    int num_valid_bytes;
  };
  struct Thread {
    EmulatedBlock* block = nullptr;
    int thread_idx = 0;
    State state = State::kDone;
    bool has_waited = false;  // for the kernels before
    int line = 0;
    const char* what = "";
    int64_t num_warp_collectives = 0;
    std::vector<Copy> uncommitted;
    std::deque<std::vector<Copy>> committed;
    Fiber fiber;
  };
  // The last accesses of two bytes. Threads of one warp are ordered by its collectives, all by the
  // barriers.
  struct Access {
    int32_t thread_idx = -1;  // or kMany, kAtomic
    int32_t warp_idx = -1;    // of all of them, or kMany
    int64_t barrier = -1;
    int64_t collective = -1;
  };
  struct Granule {
    Access write;
    Access read;
  };

  static void thread_main(void* argument);
  void wait(Thread& thread, State state, const char* what, int line);
  bool release_warps();
  // Threads that are all in `state`, at one place.
  bool release_all(State state);
  bool release_barrier();
  bool release_previous();
  void check_same_place(int begin, int end);
  [[noreturn]] void report_stuck();
  void check_race(const Access& earlier, const char* what, int thread_idx, int64_t byte);
  [[nodiscard]] bool is_ordered(const Access& earlier, int thread_idx) const;
  [[nodiscard]] std::string place_of(int thread_idx) const;

  LaunchShape shape_;
  ThreadOrder order_;
  std::function<void()> previous_;
  int64_t block_x_ = 0;
  int block_y_ = 0;
  int block_z_ = 0;
  const Body* body_ = nullptr;
  std::unique_ptr<Thread[]> threads_;
  std::vector<int> turn_;                          // thread indices in the order in which they run
  std::vector<std::array<WarpWords, 2>> offered_;  // [warps], two collectives in turn
  std::unique_ptr<std::byte[]> shared_;            // exactly as large as asked for
  std::vector<Granule> granules_;
  int64_t barrier_ = 0;              // never goes back, so that granules need no clearing
  std::vector<int64_t> collective_;  // [warps]
  std::string error_;
};

}  // namespace tandem::gpu::simt
