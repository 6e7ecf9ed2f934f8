// INT4 experts on a card: few tokens beside the copy bandwidth, many beside the BF16 product.
#pragma once

#include "bench/gpu/device_bench.h"
#include "bench/support/report.h"

namespace tandem::bench {

void bench_experts(DeviceBench& bench, Report& report);

}  // namespace tandem::bench
