// linear and both expert GEMMs on activations that are codes already: e4m3 with e4m3, whose products run at twice the rate of bf16's. wgmma alone.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/cuda/gemm_sm90.hpp>
#include <moesaic/cuda/stream.hpp>

namespace moesaic::cuda {

/// What `quantize` writes: codes [rows, inputs] of e4m3 and scales [rows, ⌈inputs / 128⌉].
struct quantized_rows {
  view<const std::uint8_t> codes;
  view<const float> scales;
};

namespace quantized_detail {

template <class Tuning, class Y>
void start(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<const float> bias, quantized_rows const& x, gemm_params<e4m3, Y> p) {
  static_assert(Tuning::has(rung::sm90), "products of codes with codes need wgmma: compile for 90a-real");
  if (where.best() != rung::sm90) return where.record(invalid("products of codes with codes need wgmma, of architecture 90", 90, where.device.architecture));
  if (w.stored != format(dtype::e4m3, 128)) return where.record(invalid("products of codes with codes need e4m3 weights with a scale for 128 x 128", 128, w.stored.group));
  if (!layout::takes(w)) return where.record(invalid("CUDA kernels need inputs that are a multiple of 16, and gate and up outputs of 8", 16, w.inputs));
  p.bias = bias.empty() ? nullptr : bias.data;
  p.x = reinterpret_cast<e4m3 const*>(x.codes.data);
  p.x_stride = x.codes.stride;
  if (!multiply_sm90<dtype::e4m3>(where, p, {x.scales.data, x.scales.stride}))
    where.record(invalid("rows of codes must begin at multiples of 16 bytes", 16, p.x_stride % 16));
}

}  // namespace quantized_detail

/// y[t][n] = bias[n] + Σ_k W[n][k] x[t][k], both as their codes and scales say: sums of 128 inputs are exact products added in the tensor cores, then
/// scaled and added in fp32. y [tokens, outputs], float or bf16.
template <class Tuning, class Y>
void linear(basic_stream_ref<Tuning>& where, packed_matrix const& w, quantized_rows const& x, list<const float> bias, view<Y> y) {
  quantized_detail::start<Tuning, Y>(where, w, bias, x, {.w = weight_view(w), .y = y.data, .y_stride = y.stride, .rows = x.codes.rows});
}

/// As expert_gate_up of cuda/ffn.hpp: slot s reads row token_of_slot[s] of x, or row s where that is null; h [slots at most, intermediate].
template <class Tuning, class Y>
void expert_gate_up(basic_stream_ref<Tuning>& where, activation_rule act, packed_matrix const& w, list<const float> bias, quantized_rows const& x,
                    list<const std::int32_t> offsets, std::int32_t const* token_of_slot, view<Y> h) {
  quantized_detail::start<Tuning, Y>(where, w, bias, x, {.w = weight_view(w), .y = h.data, .y_stride = h.stride, .rows = h.rows,
                                                         .offsets = offsets.data, .token_of_slot = token_of_slot, .activated = true, .act = act});
}

/// As expert_down of cuda/ffn.hpp.
template <class Tuning, class Y>
void expert_down(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<const float> bias, quantized_rows const& h,
                 list<const std::int32_t> offsets, view<Y> y) {
  quantized_detail::start<Tuning, Y>(where, w, bias, h, {.w = weight_view(w), .y = y.data, .y_stride = y.stride, .rows = y.rows, .offsets = offsets.data});
}

}  // namespace moesaic::cuda
