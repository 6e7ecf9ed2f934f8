// A card without a card: the CUDA runtime's functions that gpu/cuda calls, over host memory and
// streams that are queues. Linked in place of the runtime, it lets CudaOps run, with the kernels
// in the emulator of tests/gpu/simt, on any machine that has the CUDA headers.
//
// It is as lazy as a card may be: work runs when somebody waits for it, in the order of its stream,
// so that what is read or overwritten too early shows. A kernel may begin before the one in front
// of it, as a dependent launch may (gpu/cuda/simt/launch.cuh). Device memory starts as NaN. A copy
// whose device side is not device memory, a wait or an allocation in a capture are errors, as on a
// card.
#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <functional>

namespace tandem::gpu::emulated_card {

inline constexpr int kNumCards = 2;

// To the end of the stream's queue, or into the graph that it records.
void enqueue(cudaStream_t stream, std::function<void()> work);
// The same for what runs what is in front of it itself, when it waits for that.
using DependentWork = std::function<void(const std::function<void()>& previous)>;
void enqueue_dependent(cudaStream_t stream, DependentWork work);

// What ran so far, to see that graphs are replayed and not bypassed.
int64_t num_graph_launches();
int64_t num_graphs();  // there are

// Calls so far that would have set the card up for this process: it was made current, or memory was
// taken or asked about while it was.
int64_t num_uses(int card_idx);

// Device memory, of all cards together: what this process has, and what others are said to have.
int64_t used_size_bytes();
void set_others_size_bytes(int64_t size_bytes);

// How often cuBLASLt was asked for several algorithms to choose from.
int64_t num_algorithm_choices();

}  // namespace tandem::gpu::emulated_card
