// Body of sample.h: a CTA a row. "The tokens from the best on" are never sorted: a head of them is
// found by its last value, digit by digit of the values' bits, from histograms of counts and
// weights.
#pragma once

#include "gpu/cuda/kernels/reduce-inl.h"
#include "gpu/cuda/kernels/sample.h"
#include "gpu/cuda/simt/host_device.h"

namespace tandem::gpu::cuda {

// Bits in the order of the values; of the two zeros only +0 may come.
TANDEM_HOST_DEVICE inline uint32_t ordered_key(float value) {
  const uint32_t bits = simt::bits_of_float(value);
  return bits >> 31 != 0 ? ~bits : bits | 0x80000000u;
}
TANDEM_HOST_DEVICE inline float value_of_key(uint32_t key) {
  return simt::float_of_bits(key >> 31 != 0 ? key & 0x7fffffffu : ~key);
}

// e^x for x <= 0, the same bits as runtime/sampling's exp_of_nonpositive.
TANDEM_HOST_DEVICE inline float sampling_exp(float x) {
  const float shifted = simt::add(simt::multiply(x, 1.44269504f), 12582912.0f);
  const float n = simt::add(shifted, -12582912.0f);
  const float high = simt::add(x, -simt::multiply(n, 0.693359375f));
  const float r = simt::add(high, -simt::multiply(n, -2.12194440e-4f));
  float sum = 1.0f / 5040.0f;
  sum = simt::add(simt::multiply(sum, r), 1.0f / 720.0f);
  sum = simt::add(simt::multiply(sum, r), 1.0f / 120.0f);
  sum = simt::add(simt::multiply(sum, r), 1.0f / 24.0f);
  sum = simt::add(simt::multiply(sum, r), 1.0f / 6.0f);
  sum = simt::add(simt::multiply(sum, r), 0.5f);
  sum = simt::add(simt::multiply(sum, r), 1.0f);
  sum = simt::add(simt::multiply(sum, r), 1.0f);
  const float power = simt::float_of_bits((simt::bits_of_float(shifted) + 127u) << 23);
  return x > -87.0f ? simt::multiply(sum, power) : 0.0f;
}

inline constexpr float kWeightOne = 0x1p45f;  // 2^18 weights of at most 1 stay below 2^63

struct Sample {
  using Params = SampleParams;
  static constexpr int kMaxThreads = 1024, kMinBlocks = 1;
  static constexpr int kWarps = kMaxThreads / simt::kWarpSize;
  static constexpr int kNumBins = 2 * kMaxThreads;
  static constexpr int kMaxBlocks = 256;  // of kMaxThreads ids
  // Shared memory, in bytes.
  static constexpr int kCountsOffset = 0;
  static constexpr int kSumsOffset = kCountsOffset + kNumBins * 8;
  static constexpr int kBlockSumsOffset = kSumsOffset + kNumBins * 8;
  static constexpr int kScratchOffset = kBlockSumsOffset + kMaxBlocks * 8;  // [3][kWarps]
  static constexpr int kFoundOffset = kScratchOffset + 3 * kWarps * 8;
  static constexpr int kSizeBytes = kFoundOffset + 4 * 8;

  static simt::LaunchShape launch_shape(const Params& p) {
    return {.grid_x = p.logits.rows, .num_threads = kMaxThreads, .shared_size_bytes = kSizeBytes};
  }

  // A row as the sampler sees it: NaN is -inf; where +inf occurs, only it is possible.
  struct Row {
    const float* logits;
    int32_t vocab_size;
    float scale;
    float maximum;
    bool has_infinity;

    TANDEM_DEVICE float value(int32_t idx) const {
      const float logit = logits[idx];
      if (has_infinity) return logit == INFINITY ? 0.0f : -INFINITY;
      return logit == logit ? logit + 0.0f : -INFINITY;
    }
    TANDEM_DEVICE float weight(float of_value) const {
      return sampling_exp(simt::multiply(simt::add(of_value, -maximum), scale));
    }
    TANDEM_DEVICE uint64_t exact_weight(float of_value) const {
      return of_value == -INFINITY ? 0 : static_cast<uint64_t>(weight(of_value) * kWeightOne);
    }
  };

  // The best tokens down to those of value `key`, without these: the smallest head that reaches a
  // target ends among them.
  struct Head {
    uint32_t key = 0;
    uint64_t count_before = 0;
    uint64_t sum_before = 0;
  };

  template <typename Cta>
  static TANDEM_DEVICE void run(Cta& cta, const Params& p) {
    const SampleRow& how = p.rows[cta.block_x()];
    Row row{simt::row_of(p.logits, cta.block_x()), static_cast<int32_t>(p.logits.cols), how.scale,
            0.0f, false};
    row.maximum = find_maximum(cta, row);
    int32_t token_id = -1;
    if (row.maximum > -INFINITY) {
      row.has_infinity = row.maximum == INFINITY;
      if (row.has_infinity) row.maximum = 0.0f;
      token_id = choose(cta, row, how);
    }
    if (cta.thread_idx() == 0) p.token_ids[cta.block_x()] = token_id;
  }

  template <typename Cta>
  static TANDEM_DEVICE int32_t choose(Cta& cta, const Row& row, const SampleRow& how) {
    const auto weight_of = [&](int32_t idx) { return row.exact_weight(row.value(idx)); };
    const bool is_filtered = how.top_k > 0 || how.top_p < 1.0f || how.min_p > 0.0f;
    if (how.top_k == 1) return best_token(cta, row);
    uint64_t num_possible = 0;
    uint64_t num_likely = 0;  // of at least min_p times the best token's weight
    uint64_t total = 0;
    for (int32_t idx = cta.thread_idx(); idx < row.vocab_size; idx += kMaxThreads) {
      const float value = row.value(idx);
      if (value == -INFINITY) continue;
      ++num_possible;
      num_likely += row.weight(value) >= how.min_p;
      total += row.exact_weight(value);
    }
    const auto scratch = [&](int which) {
      return cta.template shared<uint64_t>(kScratchOffset + which * kWarps * 8, kWarps);
    };
    num_possible = cta_sum(cta, num_possible, scratch(0));
    num_likely = cta_sum(cta, num_likely, scratch(1));
    total = cta_sum(cta, total, scratch(2));
    cta.sync();
    if (!is_filtered) return select_by_id(cta, row, part_of(how.uniform, total), weight_of);

    uint64_t num_kept = num_possible;
    if (how.top_k > 0 && static_cast<uint64_t>(how.top_k) < num_kept)
      num_kept = static_cast<uint64_t>(how.top_k);
    const uint64_t sum_of_top_k = num_kept < num_possible ? sum_of_head(cta, row, num_kept) : total;
    if (num_likely < num_kept) num_kept = num_likely;
    if (how.top_p < 1.0f) {
      const double allowed =
          ceil(static_cast<double>(how.top_p) * static_cast<double>(sum_of_top_k));
      const uint64_t target = allowed < 1.0 ? 0 : static_cast<uint64_t>(allowed) - 1;
      const uint64_t num_until = count_until(row, find_head<false>(cta, row, target), target);
      if (num_until < num_kept) num_kept = num_until;
    }
    if (num_kept <= 1) return best_token(cta, row);
    const uint64_t target = part_of(how.uniform, sum_of_head(cta, row, num_kept));
    const Head head = find_head<false>(cta, row, target);
    const uint64_t rank = count_until(row, head, target) - head.count_before - 1;
    return select_by_id(cta, row, rank, [&](int32_t idx) -> uint64_t {
      return ordered_key(row.value(idx)) == head.key;
    });
  }

  // The multiple of 2^-45 in [0, sum) at which the draw lies.
  static TANDEM_DEVICE uint64_t part_of(double uniform, uint64_t sum) {
    const auto part = static_cast<uint64_t>(uniform * static_cast<double>(sum));
    return part < sum ? part : sum - 1;
  }

  // Tokens of the smallest head whose weight exceeds `target`, which ends among those of head.key.
  static TANDEM_DEVICE uint64_t count_until(const Row& row, const Head& head, uint64_t target) {
    const uint64_t weight = row.exact_weight(value_of_key(head.key));
    return head.count_before + (target - head.sum_before) / weight + 1;
  }

  // Weight of the `num` best tokens.
  template <typename Cta>
  static TANDEM_DEVICE uint64_t sum_of_head(Cta& cta, const Row& row, uint64_t num) {
    const Head head = find_head<true>(cta, row, num - 1);
    return head.sum_before + (num - head.count_before) * row.exact_weight(value_of_key(head.key));
  }

  template <typename Cta>
  static TANDEM_DEVICE int32_t best_token(Cta& cta, const Row& row) {
    return select_by_id(cta, row, 0,
                        [&](int32_t idx) -> uint64_t { return row.value(idx) == row.maximum; });
  }

  template <typename Cta>
  static TANDEM_DEVICE float find_maximum(Cta& cta, const Row& row) {
    float maximum = -INFINITY;
    for (int32_t idx = cta.thread_idx(); idx < row.vocab_size; idx += kMaxThreads) {
      const float logit = row.logits[idx];
      maximum = logit > maximum ? logit : maximum;  // false for NaN
    }
    TANDEM_UNROLL
    for (int mask = simt::kWarpSize / 2; mask > 0; mask /= 2)
      maximum = fmaxf(maximum, cta.shuffle_xor(maximum, mask));
    const auto partial = cta.template shared<float>(kScratchOffset, kWarps);
    if (cta.lane_idx() == 0) partial.store(cta.warp_idx(), maximum);
    cta.sync();
    for (int warp = 0; warp < kWarps; ++warp) maximum = fmaxf(maximum, partial.load(warp));
    cta.sync();
    return maximum + 0.0f;
  }

  // The head of the best tokens, in number or in weight, that first exceeds `target`; there is one.
  // 11, 11 and 10 bits of the key at a time; bin 0 holds the largest digit.
  template <bool kByCount, typename Cta>
  static TANDEM_DEVICE Head find_head(Cta& cta, const Row& row, uint64_t target) {
    const auto counts = cta.template shared<uint64_t>(kCountsOffset, kNumBins);
    const auto sums = cta.template shared<uint64_t>(kSumsOffset, kNumBins);
    const auto found = cta.template shared<uint64_t>(kFoundOffset, 3);
    Head head;
    int bits_left = 32;
    while (bits_left > 0) {
      const int num_bits = bits_left > 10 ? 11 : 10;
      const int shift = bits_left - num_bits;
      const auto last_digit = static_cast<uint32_t>((1 << num_bits) - 1);
      for (int bin = cta.thread_idx(); bin < kNumBins; bin += kMaxThreads) {
        counts.store(bin, 0);
        sums.store(bin, 0);
      }
      cta.sync();
      for (int32_t idx = cta.thread_idx(); idx < row.vocab_size; idx += kMaxThreads) {
        const float value = row.value(idx);
        const uint32_t key = ordered_key(value);
        if (value == -INFINITY || uint64_t{key} >> bits_left != uint64_t{head.key} >> bits_left)
          continue;
        const uint32_t bin = last_digit - (key >> shift & last_digit);
        counts.atomic_add(bin, uint64_t{1});
        sums.atomic_add(bin, row.exact_weight(value));
      }
      cta.sync();
      take_digit<kByCount>(cta, target, counts, sums, found, head);
      head.key |= (last_digit - static_cast<uint32_t>(found.load(0))) << shift;
      head.count_before = found.load(1);
      head.sum_before = found.load(2);
      bits_left = shift;
    }
    return head;
  }

  // The first bin at which the head exceeds the target, and what lies before it, to `found`. A
  // thread has two bins.
  template <bool kByCount, typename Cta, typename Shared>
  static TANDEM_DEVICE void take_digit(
      Cta& cta, uint64_t target, Shared counts, Shared sums, Shared found, const Head& head) {
    const int first = 2 * cta.thread_idx();
    const uint64_t count[2] = {counts.load(first), counts.load(first + 1)};
    const uint64_t sum[2] = {sums.load(first), sums.load(first + 1)};
    const auto scratch = [&](int which) {
      return cta.template shared<uint64_t>(kScratchOffset + which * kWarps * 8, kWarps);
    };
    uint64_t count_before = head.count_before +
                            cta_inclusive_sum(cta, count[0] + count[1], scratch(0)) - count[0] -
                            count[1];
    uint64_t sum_before =
        head.sum_before + cta_inclusive_sum(cta, sum[0] + sum[1], scratch(1)) - sum[0] - sum[1];
    for (int bin = 0; bin < 2; ++bin) {
      const uint64_t before = kByCount ? count_before : sum_before;
      const uint64_t after = before + (kByCount ? count[bin] : sum[bin]);
      if (before <= target && target < after) {
        found.store(0, static_cast<uint64_t>(first + bin));
        found.store(1, count_before);
        found.store(2, sum_before);
      }
      count_before += count[bin];
      sum_before += sum[bin];
    }
    cta.sync();
  }

  // The lowest id at which the measures of all ids so far exceed `target`; -1 if they never do.
  template <typename Cta, typename Measure>
  static TANDEM_DEVICE int32_t
  select_by_id(Cta& cta, const Row& row, uint64_t target, const Measure& measure) {
    const int32_t num_blocks = static_cast<int32_t>(simt::ceil_div(row.vocab_size, kMaxThreads));
    const auto block_sums = cta.template shared<uint64_t>(kBlockSumsOffset, kMaxBlocks);
    for (int32_t block = cta.warp_idx(); block < num_blocks; block += kWarps) {
      uint64_t sum = 0;
      for (int step = 0; step < kWarps; ++step) {
        const int32_t idx = (block * kWarps + step) * simt::kWarpSize + cta.lane_idx();
        if (idx < row.vocab_size) sum += measure(idx);
      }
      sum = warp_sum(cta, sum);
      if (cta.lane_idx() == 0) block_sums.store(block, sum);
    }
    cta.sync();
    int32_t block = 0;
    while (block + 1 < num_blocks && target >= block_sums.load(block))
      target -= block_sums.load(block++);
    const int32_t idx = block * kMaxThreads + cta.thread_idx();
    const uint64_t mine = idx < row.vocab_size ? measure(idx) : 0;
    const uint64_t until =
        cta_inclusive_sum(cta, mine, cta.template shared<uint64_t>(kScratchOffset, kWarps));
    const auto found = cta.template shared<int32_t>(kFoundOffset, 1);
    if (cta.thread_idx() == 0) found.store(0, -1);
    cta.sync();
    if (until - mine <= target && target < until) found.store(0, idx);
    cta.sync();
    return found.load(0);
  }
};

}  // namespace tandem::gpu::cuda
