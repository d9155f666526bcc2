// linear and both expert GEMMs on activations that are codes already: e4m3 with e4m3, whose products run at twice the rate of bf16's, by wgmma; other kernels
// multiply what the codes say.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/math.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/config/activation_rule.hpp>
#include <moesaic/cuda/gemm.hpp>
#include <moesaic/cuda/gemm_sm90.hpp>
#include <moesaic/cuda/quantize.hpp>
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

/// What a layer's products read in place of x where their inputs are codes (storage.inputs): codes and scales where wgmma multiplies them, else the numbers
/// that these are, of type Number.
template <class Number>
struct coded_rows {
  quantized_rows codes;
  view<const Number> numbers;            ///< without data where there are codes

  bool has_codes() const { return numbers.data == nullptr; }
};

/// Whether a tuning multiplies codes with codes where the device can. wgmma does not say in which order it adds.
template <class Tuning>
inline constexpr bool multiplies_codes = Tuning::has(rung::sm90) && !sums_in_one_order<Tuning>;

/// x [rows, inputs], inputs a multiple of 16, in memory for as many numbers; of it rows [*first, *end), on the device, or from the first, or to the last.
template <input_codes Codes, class Tuning, class T>
coded_rows<coded<Codes, T>> code_inputs(basic_stream_ref<Tuning>& where, view<const T> x, list<coded<Codes, T>> memory, std::int32_t const* end = nullptr,
                                        std::int32_t const* first = nullptr) {
  using number = coded<Codes, T>;
  if constexpr (multiplies_codes<Tuning>)
    if (where.best() == rung::sm90) {
      view<std::uint8_t> const codes(reinterpret_cast<std::uint8_t*>(memory.data), x.rows, x.columns);
      view<float> const scales(reinterpret_cast<float*>(codes.data + x.rows * x.columns), x.rows, packed::ceil_div(x.columns, groups::input_group));
      quantize_detail::start<T, std::uint8_t>(where, {.x = x, .codes = codes, .scales = scales, .rows = end, .first = first, .kind = Codes});
      return {{codes, scales}, {}};
    }
  view<number> const numbers(memory.data, x.rows, x.columns);
  quantize_detail::start<T, number>(where, {.x = x, .codes = numbers, .rows = end, .first = first, .kind = Codes});
  return {{}, numbers};
}

namespace quantized_detail {

// Where codes are multiplied, wgmma of the numbers is never started.
template <dtype W, class Tuning, class Number, class Y>
void start_coded(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<const float> bias, coded_rows<Number> const& x, gemm_params<Number, Y> p) {
  if constexpr (multiplies_codes<Tuning>)
    if (x.has_codes())
      return start<Tuning, Y>(where, w, bias, x.codes, {.w = p.w, .y = p.y, .y_stride = p.y_stride, .rows = p.rows, .offsets = p.offsets,
                                                        .token_of_slot = p.token_of_slot, .activated = p.activated, .act = p.act});
  p.bias = bias.empty() ? nullptr : bias.data;
  p.x = x.numbers.data;
  p.x_stride = x.numbers.stride;
  start_gemm<W, multiplies_codes<Tuning> ? rung::sm80 : rung::sm90>(where, w, p);
}

}  // namespace quantized_detail

/// linear, expert_gate_up, expert_linear and expert_down of what code_inputs gave.
template <dtype W, class Tuning, class Number, class Y>
void linear(basic_stream_ref<Tuning>& where, packed_matrix const& w, coded_rows<Number> const& x, list<const float> bias, view<Y> y) {
  quantized_detail::start_coded<W, Tuning, Number, Y>(where, w, bias, x, {.w = weight_view(w), .y = y.data, .y_stride = y.stride, .rows = y.rows});
}
template <dtype W, class Tuning, class Number, class Y>
void expert_gate_up(basic_stream_ref<Tuning>& where, activation_rule act, packed_matrix const& w, list<const float> bias, coded_rows<Number> const& x,
                    list<const std::int32_t> offsets, std::int32_t const* token_of_slot, view<Y> h) {
  quantized_detail::start_coded<W, Tuning, Number, Y>(where, w, bias, x, {.w = weight_view(w), .y = h.data, .y_stride = h.stride, .rows = h.rows,
                                                                          .offsets = offsets.data, .token_of_slot = token_of_slot, .activated = true, .act = act});
}
template <dtype W, class Tuning, class Number, class Y>
void expert_linear(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<const float> bias, coded_rows<Number> const& x,
                   list<const std::int32_t> offsets, std::int32_t const* token_of_slot, view<Y> y) {
  quantized_detail::start_coded<W, Tuning, Number, Y>(where, w, bias, x, {.w = weight_view(w), .y = y.data, .y_stride = y.stride, .rows = y.rows,
                                                                          .offsets = offsets.data, .token_of_slot = token_of_slot});
}
template <dtype W, class Tuning, class Number, class Y>
void expert_down(basic_stream_ref<Tuning>& where, packed_matrix const& w, list<const float> bias, coded_rows<Number> const& h, list<const std::int32_t> offsets,
                 view<Y> y) {
  expert_linear<W>(where, w, bias, h, offsets, nullptr, y);
}

}  // namespace moesaic::cuda
