#include "gpu/host/onednn/onednn_matmul.h"

#include <dnnl.hpp>
#include <vector>

#include "runtime/base/check.h"

namespace tandem::gpu::host {
namespace {

using dnnl::matmul;
using dnnl::memory;

// The one place that knows oneDNN's version: 3.0 did away with operation descriptors.
matmul::primitive_desc describe(const memory::desc& x,
                                const memory::desc& weight,
                                const memory::desc& out,
                                const dnnl::engine& engine) {
#if DNNL_VERSION_MAJOR >= 3
  return matmul::primitive_desc(engine, x, weight, out);
#else
  return matmul::primitive_desc(matmul::desc(x, weight, out), engine);
#endif
}

void fill(const memory& target, OnednnType type, MatrixView<const bf16> source) {
  for (int64_t row = 0; row < source.rows; ++row) {
    for (int64_t col = 0; col < source.cols; ++col) {
      const int64_t idx = row * source.cols + col;
      if (type == OnednnType::kFloat) {
        static_cast<float*>(target.get_data_handle())[idx] = source(row, col).to_float();
      } else {
        static_cast<bf16*>(target.get_data_handle())[idx] = source(row, col);
      }
    }
  }
}

}  // namespace

struct OnednnMatmul::Impl {
  OnednnType type;
  int64_t num_rows;
  int64_t out_features;
  int64_t in_features;
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  bool supported = false;
  matmul product;
  memory x;
  memory weight;
  memory out;
};

OnednnMatmul::OnednnMatmul(OnednnType type, int64_t num_rows, MatrixView<const bf16> weight)
    : impl_(new Impl{.type = type,
                     .num_rows = num_rows,
                     .out_features = weight.rows,
                     .in_features = weight.cols,
                     .product = {},
                     .x = {},
                     .weight = {},
                     .out = {}}) {
  const auto data_type =
      type == OnednnType::kFloat ? memory::data_type::f32 : memory::data_type::bf16;
  const memory::dims x_dims{num_rows, weight.cols};
  const memory::dims weight_dims{weight.cols, weight.rows};
  const memory::dims out_dims{num_rows, weight.rows};
  const memory::desc x_desc(x_dims, data_type, memory::format_tag::ab);
  const memory::desc any_desc(weight_dims, data_type, memory::format_tag::any);
  const memory::desc rows_desc(weight_dims, data_type, memory::format_tag::ba);
  const memory::desc out_desc(out_dims, memory::data_type::f32, memory::format_tag::ab);
  try {
    const auto description = describe(x_desc, any_desc, out_desc, impl_->engine);
    impl_->product = matmul(description);
    impl_->x = memory(x_desc, impl_->engine);
    impl_->out = memory(out_desc, impl_->engine);
    memory plain(rows_desc, impl_->engine);
    fill(plain, type, weight);
    impl_->weight = memory(description.weights_desc(), impl_->engine);
    dnnl::reorder(plain, impl_->weight).execute(impl_->stream, plain, impl_->weight);
    impl_->stream.wait();
    impl_->supported = true;
  } catch (const dnnl::error& error) {
    if (error.status != dnnl_unimplemented) throw;
  }
}

OnednnMatmul::~OnednnMatmul() = default;

bool OnednnMatmul::is_supported() const { return impl_->supported; }

void OnednnMatmul::set_input(MatrixView<const bf16> x) {
  TANDEM_CHECK(is_supported(), "oneDNN has no such product here");
  TANDEM_CHECK(x.rows == impl_->num_rows && x.cols == impl_->in_features, "shape of x");
  fill(impl_->x, impl_->type, x);
}

void OnednnMatmul::run() {
  impl_->product.execute(
      impl_->stream,
      {{DNNL_ARG_SRC, impl_->x}, {DNNL_ARG_WEIGHTS, impl_->weight}, {DNNL_ARG_DST, impl_->out}});
  impl_->stream.wait();
}

MatrixView<const float> OnednnMatmul::out() const {
  return {static_cast<const float*>(impl_->out.get_data_handle()), impl_->num_rows,
          impl_->out_features};
}

}  // namespace tandem::gpu::host
