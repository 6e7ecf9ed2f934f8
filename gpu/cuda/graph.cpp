#include "gpu/cuda/graph.h"

#include "gpu/cuda/error.h"

namespace tandem::gpu::cuda {
namespace {

// The recorded form, needed until it is instantiated.
struct Graph {
  cudaGraph_t graph = nullptr;
  ~Graph() {
    if (graph != nullptr) log_failure(cudaGraphDestroy(graph), "cudaGraphDestroy");
  }
};

}  // namespace

CapturedGraph CapturedGraph::capture(const Stream& stream, const std::function<void()>& work) {
  Graph recorded;
  TANDEM_CUDA_CHECK(cudaStreamBeginCapture(stream.get(), cudaStreamCaptureModeThreadLocal));
  try {
    work();
  } catch (...) {
    cudaStreamEndCapture(stream.get(), &recorded.graph);
    cudaGetLastError();  // that of the broken capture; the one thrown tells more
    throw;
  }
  TANDEM_CUDA_CHECK(cudaStreamEndCapture(stream.get(), &recorded.graph));
  CapturedGraph result;
  TANDEM_CUDA_CHECK(cudaGraphGetNodes(recorded.graph, nullptr, &result.num_nodes_));
  TANDEM_CUDA_CHECK(cudaGraphInstantiate(&result.executable_, recorded.graph, 0));
  return result;
}

CapturedGraph::~CapturedGraph() {
  if (executable_ != nullptr)
    log_failure(cudaGraphExecDestroy(executable_), "cudaGraphExecDestroy");
}

void CapturedGraph::launch(const Stream& stream) const {
  TANDEM_CUDA_CHECK(cudaGraphLaunch(executable_, stream.get()));
}

}  // namespace tandem::gpu::cuda
