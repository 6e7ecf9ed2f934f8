#include "gpu/cuda/stream.h"

#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {

Stream::Stream() { TANDEM_CUDA_CHECK(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking)); }

Stream::~Stream() {
  if (stream_ != nullptr) log_failure(cudaStreamDestroy(stream_), "cudaStreamDestroy");
}

void Stream::synchronize() const { TANDEM_CUDA_CHECK(cudaStreamSynchronize(stream_)); }

void Stream::wait_for(const Event& event) const {
  TANDEM_CUDA_CHECK(cudaStreamWaitEvent(stream_, event.get(), 0));
}

}  // namespace tandem::gpu::cuda
