// A point in a stream of the current device, owned.
#pragma once

#include <cuda_runtime_api.h>

#include <utility>

namespace tandem::gpu::cuda {

class Event {
 public:
  enum class Timing { kOff, kOn };
  // Throws CudaError. Without timing recording and waiting are cheaper.
  explicit Event(Timing timing = Timing::kOff);
  ~Event();
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&& other) noexcept {
    std::swap(event_, other.event_);
    return *this;
  }

  [[nodiscard]] cudaEvent_t get() const { return event_; }
  void record(cudaStream_t stream) const;
  void synchronize() const;  // the calling thread waits; at once when never recorded
  [[nodiscard]] bool is_done() const;
  // Milliseconds from `start` to this one; both with timing and done.
  [[nodiscard]] float elapsed_ms_since(const Event& start) const;

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace tandem::gpu::cuda
