// Rows of x to rows of y through a packed matrix: projections, router logits, the head.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/gemm.hpp>
#include <moesaic/cuda/stream.hpp>

namespace moesaic::cuda {

/// y[t][n] = bias[n] + Σ_k W[n][k] x[t][k]. x [tokens, inputs], y [tokens, outputs], bias [outputs] or empty; W is w.stored.type.
/// X: float or bf16; Y: float or bf16. A sum is rounded to Y once, after the bias. Its bits depend on neither the other rows of x nor the grid, but
/// on how many rows there are: few and many get different kernels; not so for fp32 weights, nor under a tuning that is cuda::in_one_order.
template <dtype W, class Tuning, class X, class Y>
void linear(basic_stream_ref<Tuning>& where, packed_matrix const& w, view<X> x, list<const float> bias, view<Y> y) {
  using scalar = std::remove_const_t<X>;
  start_gemm<W>(where, w, gemm_params<scalar, Y>{.w = weight_view(w), .bias = bias.empty() ? nullptr : bias.data, .x = x.data, .x_stride = x.stride,
                                                 .y = y.data, .y_stride = y.stride, .rows = x.rows});
}

}  // namespace moesaic::cuda
