#include "offload/kv_identity.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <span>

#include "runtime/kv/page_hash.h"
#include "runtime/model/checkpoint_layout.h"
#include "runtime/model/config_writer.h"

namespace tandem::offload {
namespace {

// Of what a page holds, and of the arithmetic where a change of it was more than rounding: another
// number here, and no page of before is found.
constexpr int kVersion = 2;
constexpr int64_t kSampleSizeBytes = 4096;
// Of Kimi-K2's 69,120 matrices of scales 4,066 are looked at: in half a second from a cold disk,
// not in seven. Coprime to 3 and 384, so that it comes to all projections and experts.
constexpr int64_t kExpertStride = 17;

PageHash add_sample(PageHash hash, std::span<const std::byte> bytes, int64_t begin_bytes) {
  std::array<int32_t, kSampleSizeBytes / sizeof(int32_t)> words{};
  const auto sample =
      bytes.subspan(static_cast<size_t>(begin_bytes), std::min(bytes.size(), sizeof(words)));
  std::memcpy(words.data(), sample.data(), sample.size());
  return extend_page_hash(hash, words);
}

PageHash hash_of(const Checkpoint& checkpoint) {
  PageHash hash = salted_root_hash(root_page_hash(kVersion), config_text(checkpoint.config()));
  int64_t num_expert_values = 0;
  visit_all_tensors(checkpoint.config(), [&](const ExpectedTensor& tensor) {
    const TensorInfo* const info = checkpoint.index().find(tensor.name);
    if (info == nullptr || !tensor.is_checked) return;
    hash = salted_root_hash(hash, tensor.name + " " + describe(*info));
    const std::span<const std::byte> bytes = checkpoint.index().bytes(*info);
    const int64_t last =
        std::max<int64_t>(static_cast<int64_t>(bytes.size()) - kSampleSizeBytes, 0);
    if (tensor.kind != TensorKind::kRoutedExperts) {
      for (const int64_t begin : {int64_t{0}, last / 2, last})
        hash = add_sample(hash, bytes, begin);
    } else if (tensor.dtype == DType::kBF16 && num_expert_values++ % kExpertStride == 0) {
      hash = add_sample(hash, bytes, last / 2);
    }
  });
  return hash;
}

std::string_view name_of(gpu::MlaForm form) {
  switch (form) {
    case gpu::MlaForm::kAbsorbed:
      return "absorbed";
    case gpu::MlaForm::kExpanded:
      return "expanded";
    case gpu::MlaForm::kAuto:
      break;
  }
  return "auto";
}

}  // namespace

std::string kv_identity(const Checkpoint& checkpoint, const KvArithmetic& arithmetic) {
  const PageHash hash = hash_of(checkpoint);
  std::vector<std::string> kinds = arithmetic.devices;
  kinds.erase(std::unique(kinds.begin(), kinds.end()), kinds.end());
  std::string text = fmt::format(
      "tandem KV {}; checkpoint {:016x}{:016x}; dense part: {}; attention: {}", kVersion, hash.high,
      hash.low, fmt::join(kinds, " and "), name_of(arithmetic.mla_form));
  if (!arithmetic.host_experts.empty()) {
    text += fmt::format("; experts: {}, activations {}, {} nodes, {} layers on devices",
                        arithmetic.host_experts, mode_name(arithmetic.expert_activations),
                        arithmetic.num_nodes, arithmetic.num_device_expert_layers);
  }
  return text;
}

}  // namespace tandem::offload
