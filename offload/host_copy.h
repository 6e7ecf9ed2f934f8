// Matrices from a device to host memory of Ops::allocate_host.
#pragma once

#include <cstddef>
#include <span>

#include "gpu/ops.h"
#include "runtime/base/check.h"

namespace tandem::offload {

// host = device; both without gaps between the rows.
template <typename T>
void copy_to_host(gpu::Ops& ops, MatrixView<const T> device, MatrixView<T> host) {
  TANDEM_CHECK(device.rows == host.rows && device.cols == host.cols, "copy_to_host: shapes");
  TANDEM_CHECK(device.row_stride == device.cols && host.row_stride == host.cols,
               "copy_to_host: rows with gaps");
  const auto num_values = static_cast<size_t>(device.rows * device.cols);
  ops.copy_to_host(std::as_bytes(std::span(device.data, num_values)),
                   std::as_writable_bytes(std::span(host.data, num_values)));
}

}  // namespace tandem::offload
