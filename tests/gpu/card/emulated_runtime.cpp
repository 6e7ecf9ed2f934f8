#include <array>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "tests/gpu/card/emulated_launch.h"

struct Work {
  tandem::gpu::emulated_card::DependentWork run;
  bool is_dependent = false;
};

struct CUgraph_st {
  std::vector<Work> nodes;
};
struct CUgraphExec_st {
  std::shared_ptr<const std::vector<Work>> nodes;
};
struct CUstream_st {
  std::deque<Work> queue;
  int64_t num_enqueued = 0;
  int64_t num_done = 0;
  std::unique_ptr<CUgraph_st> recording;
};
struct CUevent_st {
  cudaStream_t stream = nullptr;  // of the last record
  int64_t position = 0;
};

namespace tandem::gpu::emulated_card {
namespace {

constexpr size_t kMemorySizeBytes = size_t{4} << 30;

struct Card {
  std::map<uintptr_t, size_t> device_memory;  // begin, size
  std::map<uintptr_t, size_t> pinned_memory;
  std::set<cudaStream_t> streams;
  int current_device = 0;
  std::array<int64_t, kNumCards> num_uses{};
  cudaError_t last_error = cudaSuccess;
  int64_t num_graph_launches = 0;
  int64_t num_graphs = 0;
  int64_t others_size_bytes = 0;  // of device memory, taken by somebody else
};
Card& card() {
  static Card instance;
  return instance;
}

void use_current() { ++card().num_uses[static_cast<size_t>(card().current_device)]; }

cudaError_t fail(cudaError_t status) {
  card().last_error = status;
  return status;
}

bool holds(const std::map<uintptr_t, size_t>& memory, const void* begin, size_t size_bytes) {
  const auto address = reinterpret_cast<uintptr_t>(begin);
  auto found = memory.upper_bound(address);
  if (found == memory.begin()) return false;
  --found;
  return address + size_bytes <= found->first + found->second;
}

bool is_capturing() {
  for (const cudaStream_t stream : card().streams) {
    if (stream->recording != nullptr) return true;
  }
  return false;
}

// How many kernels begin before what is in front of them is done; each holds its threads' stacks
// meanwhile.
constexpr size_t kMaxDependent = 3;

// The first of `works` and the dependent ones behind it, which it is left to the last to begin
// with.
size_t run_some(std::span<const Work> works) {
  size_t num = 1;
  while (num < works.size() && num <= kMaxDependent && works[num].is_dependent) ++num;
  std::function<void()> previous;
  for (const Work& work : works.first(num)) {
    previous = [&work, before = std::move(previous)] { work.run(before); };
  }
  previous();
  return num;
}

void run_all_of(std::span<const Work> works) {
  while (!works.empty()) works = works.subspan(run_some(works));
}

void run_until(cudaStream_t stream, int64_t position) {
  // Work may come to wait for other streams, and those for this one: it is out of the queue first.
  std::vector<Work> works;
  while (stream->num_done < position && !stream->queue.empty()) {
    works.push_back(std::move(stream->queue.front()));
    stream->queue.pop_front();
    ++stream->num_done;
  }
  run_all_of(works);
}

void run_all() {
  for (const cudaStream_t stream : card().streams) run_until(stream, stream->num_enqueued);
}

int64_t free_size_bytes() {
  return static_cast<int64_t>(kMemorySizeBytes) - card().others_size_bytes - used_size_bytes();
}

cudaError_t allocate(std::map<uintptr_t, size_t>& memory, void** out, size_t size_bytes) {
  if (is_capturing()) return fail(cudaErrorStreamCaptureUnsupported);
  use_current();
  const bool on_card = &memory == &card().device_memory;
  if (on_card && static_cast<int64_t>(size_bytes) > free_size_bytes())
    return fail(cudaErrorMemoryAllocation);
  *out = std::aligned_alloc(256, (size_bytes + 255) / 256 * 256);
  std::memset(*out, 0xff, size_bytes);
  memory[reinterpret_cast<uintptr_t>(*out)] = size_bytes;
  return cudaSuccess;
}

cudaError_t release(std::map<uintptr_t, size_t>& memory, void* data) {
  if (data == nullptr) return cudaSuccess;
  run_all();
  if (memory.erase(reinterpret_cast<uintptr_t>(data)) == 0) return fail(cudaErrorInvalidValue);
  std::free(data);
  return cudaSuccess;
}

cudaError_t copy(void* to, const void* from, size_t size_bytes, cudaStream_t stream) {
  enqueue(stream, [=] { std::memcpy(to, from, size_bytes); });
  return cudaSuccess;
}

}  // namespace

namespace {

void enqueue_work(cudaStream_t stream, Work work) {
  if (stream->recording != nullptr) {
    stream->recording->nodes.push_back(std::move(work));
    return;
  }
  stream->queue.push_back(std::move(work));
  ++stream->num_enqueued;
}

}  // namespace

void enqueue(cudaStream_t stream, std::function<void()> work) {
  enqueue_work(stream, {.run =
                            [work = std::move(work)](const std::function<void()>& previous) {
                              if (previous) previous();
                              work();
                            },
                        .is_dependent = false});
}

void enqueue_dependent(cudaStream_t stream, DependentWork work) {
  enqueue_work(stream, {.run = std::move(work), .is_dependent = true});
}

int64_t num_graph_launches() { return card().num_graph_launches; }
int64_t num_graphs() { return card().num_graphs; }
int64_t num_uses(int card_idx) { return card().num_uses[static_cast<size_t>(card_idx)]; }

int64_t used_size_bytes() {
  int64_t size_bytes = 0;
  for (const auto& [begin, size] : card().device_memory) size_bytes += static_cast<int64_t>(size);
  return size_bytes;
}

void set_others_size_bytes(int64_t size_bytes) { card().others_size_bytes = size_bytes; }

}  // namespace tandem::gpu::emulated_card

namespace card = tandem::gpu::emulated_card;
using card::fail;

// --- devices and errors

cudaError_t cudaGetDeviceCount(int* count) {
  *count = card::kNumCards;
  return cudaSuccess;
}
cudaError_t cudaGetDevice(int* device) {
  *device = card::card().current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  if (device < 0 || device >= card::kNumCards) return fail(cudaErrorInvalidDevice);
  card::card().current_device = device;
  card::use_current();
  return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
  *properties = {};
  std::strcpy(properties->name, "emulated card");
  properties->totalGlobalMem = card::kMemorySizeBytes;
  properties->major = 8;
  properties->multiProcessorCount = 3;
  properties->sharedMemPerBlockOptin = size_t{163} << 10;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free_bytes, size_t* total_bytes) {
  card::use_current();
  *free_bytes = static_cast<size_t>(card::free_size_bytes());
  *total_bytes = card::kMemorySizeBytes;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(card::card().last_error, cudaSuccess); }
const char* cudaGetErrorName(cudaError_t status) {
  return status == cudaSuccess ? "cudaSuccess" : "an error of the emulated card";
}
const char* cudaGetErrorString(cudaError_t status) {
  static thread_local std::string text;
  text = "cudaError_t " + std::to_string(static_cast<int>(status));
  return text.c_str();
}

// --- memory

cudaError_t cudaMalloc(void** data, size_t size_bytes) {
  return card::allocate(card::card().device_memory, data, size_bytes);
}
cudaError_t cudaFree(void* data) { return card::release(card::card().device_memory, data); }
cudaError_t cudaHostAlloc(void** data, size_t size_bytes, unsigned) {
  return card::allocate(card::card().pinned_memory, data, size_bytes);
}
cudaError_t cudaFreeHost(void* data) { return card::release(card::card().pinned_memory, data); }
cudaError_t cudaMemset(void* data, int value, size_t size_bytes) {
  if (!card::holds(card::card().device_memory, data, size_bytes))
    return fail(cudaErrorInvalidValue);
  std::memset(data, value, size_bytes);
  return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(
    void* to, const void* from, size_t size_bytes, cudaMemcpyKind kind, cudaStream_t stream) {
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  const auto& device_memory = card::card().device_memory;
  const auto& pinned_memory = card::card().pinned_memory;
  if ((from_device && !card::holds(device_memory, from, size_bytes)) ||
      (to_device && !card::holds(device_memory, to, size_bytes)))
    return fail(cudaErrorInvalidValue);
  const bool is_pageable = (!from_device && !card::holds(pinned_memory, from, size_bytes)) ||
                           (!to_device && !card::holds(pinned_memory, to, size_bytes));
  if (!is_pageable) return card::copy(to, from, size_bytes, stream);
  if (stream->recording != nullptr) return fail(cudaErrorStreamCaptureUnsupported);
  card::copy(to, from, size_bytes, stream);  // such a copy waits
  card::run_until(stream, stream->num_enqueued);
  return cudaSuccess;
}
cudaError_t cudaMemcpyPeerAsync(
    void* to, int, const void* from, int, size_t size_bytes, cudaStream_t stream) {
  return cudaMemcpyAsync(to, from, size_bytes, cudaMemcpyDeviceToDevice, stream);
}

// --- streams and events

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = new CUstream_st;
  card::card().streams.insert(*stream);
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  card::run_until(stream, stream->num_enqueued);
  card::card().streams.erase(stream);
  delete stream;
  return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  if (stream == cudaStreamLegacy) return cudaSuccess;  // what goes there runs at once
  if (stream->recording != nullptr) return fail(cudaErrorStreamCaptureUnsupported);
  card::run_until(stream, stream->num_enqueued);
  return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event->stream == nullptr) return cudaSuccess;
  card::enqueue(stream, [other = event->stream, position = event->position] {
    if (card::card().streams.contains(other)) card::run_until(other, position);
  });
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  *event = {stream, stream->num_enqueued};
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (card::card().streams.contains(event->stream)) card::run_until(event->stream, event->position);
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }
cudaError_t cudaEventElapsedTime(float* elapsed_ms, cudaEvent_t, cudaEvent_t) {
  *elapsed_ms = 0.0f;
  return cudaSuccess;
}

// --- graphs

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode) {
  stream->recording = std::make_unique<CUgraph_st>();
  return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
  *graph = stream->recording.release();
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
  *status =
      stream->recording != nullptr ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, size_t* num_nodes) {
  *num_nodes = graph->nodes.size();
  return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable,
                                 cudaGraph_t graph,
                                 unsigned long long) {
  *executable = new CUgraphExec_st{std::make_shared<const std::vector<Work>>(graph->nodes)};
  ++card::card().num_graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
  delete graph;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
  delete executable;
  --card::card().num_graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
  ++card::card().num_graph_launches;
  card::enqueue(stream, [nodes = executable->nodes] { card::run_all_of(*nodes); });
  return cudaSuccess;
}
