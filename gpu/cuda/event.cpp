#include "gpu/cuda/event.h"

#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {

Event::Event(Timing timing) {
  TANDEM_CUDA_CHECK(cudaEventCreateWithFlags(
      &event_, timing == Timing::kOn ? cudaEventDefault : cudaEventDisableTiming));
}

Event::~Event() {
  if (event_ != nullptr) log_failure(cudaEventDestroy(event_), "cudaEventDestroy");
}

void Event::record(cudaStream_t stream) const {
  TANDEM_CUDA_CHECK(cudaEventRecord(event_, stream));
}

void Event::synchronize() const { TANDEM_CUDA_CHECK(cudaEventSynchronize(event_)); }

bool Event::is_done() const {
  const cudaError_t status = cudaEventQuery(event_);
  if (status == cudaErrorNotReady) {
    cudaGetLastError();
    return false;
  }
  check(status, "cudaEventQuery", __FILE__, __LINE__);
  return true;
}

float Event::elapsed_ms_since(const Event& start) const {
  float elapsed_ms = 0.0f;
  TANDEM_CUDA_CHECK(cudaEventElapsedTime(&elapsed_ms, start.event_, event_));
  return elapsed_ms;
}

}  // namespace tandem::gpu::cuda
