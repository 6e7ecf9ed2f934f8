// What the bytes of a KV page depend on besides its tokens, as a text.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu_experts/dispatch.h"
#include "gpu/ops.h"
#include "runtime/model/checkpoint.h"

namespace tandem::offload {

// How a model computes.
struct KvArithmetic {
  std::vector<std::string> devices = {};  // Ops::arithmetic() of each, in the order of the layers
  std::string host_experts = {};  // kernels of the CPU's experts; "" for a model without experts
  int32_t num_nodes = 0;          // by which their sums are cut
  cpu_experts::ActivationMode expert_activations = cpu_experts::ActivationMode::kBf16;
  gpu::MlaForm mla_form = gpu::MlaForm::kAuto;
  // Layers whose experts lie on the devices; 0 where that changes a token's KV by rounding alone.
  int32_t num_device_expert_layers = 0;
};

// One line: the layout's version, a hash of the checkpoint, and how is computed. The same for the
// same checkpoint in another folder, and for other numbers of threads, pages and devices of a kind.
//
// The hash covers all of config.json that the model goes by; name, type and shape of every tensor
// that it reads; of the values 4 KiB each at begin, middle and end of every tensor but the routed
// experts', and of one in 17 of those 4 KiB of the scales (of the weights where they are BF16). A
// fine-tune moves nearly every value of what it trains, also where these 4 KiB lie; files made to
// differ elsewhere alone would be taken for each other.
std::string kv_identity(const Checkpoint& checkpoint, const KvArithmetic& arithmetic);

}  // namespace tandem::offload
