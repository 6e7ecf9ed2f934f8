// The executable: names the one concrete model and hands it to the command line as a factory.
#include "gpu/devices.h"
#include "offload/kimi_k2.h"
#include "server/cli/command_line.h"

namespace {

tandem::gpu::MlaForm mla_form(tandem::cli::Attention attention) {
  switch (attention) {
    case tandem::cli::Attention::kAbsorbed:
      return tandem::gpu::MlaForm::kAbsorbed;
    case tandem::cli::Attention::kExpanded:
      return tandem::gpu::MlaForm::kExpanded;
    case tandem::cli::Attention::kAuto:
      break;
  }
  return tandem::gpu::MlaForm::kAuto;
}

std::unique_ptr<tandem::ForwardModel> load_model(const tandem::Checkpoint& checkpoint,
                                                 tandem::WorkerPool& pool,
                                                 const tandem::cli::ModelLimits& limits,
                                                 const tandem::ProgressFn& progress) {
  tandem::offload::KimiK2Options options;
  options.kv_cache_tokens = limits.kv_cache_tokens;
  options.max_batch_tokens = limits.max_batch_tokens;
  options.preferred_batch_tokens = limits.preferred_batch_tokens;
  options.max_logit_rows = limits.max_logit_rows;
  options.max_context_tokens = limits.max_context_tokens;
  options.mla_form = mla_form(limits.attention);
  if (limits.expert_activations == tandem::cli::ExpertActivations::kInt8) {
    options.expert_activations = tandem::cpu_experts::ActivationMode::kInt8;
  }
  const tandem::gpu::CudaSupport support = tandem::gpu::detect_cuda();
  options.devices = tandem::gpu::choose_devices(limits.gpus, support);
  options.gpu_expert_layers = limits.gpu_expert_layers;
  options.kv_host_size_bytes = limits.kv_host_size_bytes;
  options.min_kv_host_pages = limits.min_kv_host_pages;
  if (limits.on_plan) {
    options.on_plan = [&](const std::string& memory_map) {
      limits.on_plan("GPU: " + tandem::gpu::describe(support) + "\n" + memory_map);
    };
  }
  return tandem::offload::KimiK2::load(checkpoint, pool, options, progress);
}

}  // namespace

int main(int argc, char** argv) {
  return tandem::cli::run_command_line(
      argc, argv, load_model, [] { return tandem::gpu::describe(tandem::gpu::detect_cuda()); });
}
