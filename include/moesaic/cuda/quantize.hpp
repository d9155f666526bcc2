// Activations as codes of 8 bits: e4m3 with a scale for every 128 inputs of a row, as products of e4m3 with e4m3 take them.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/packed.hpp>
#include <moesaic/base/view.hpp>
#include <moesaic/cuda/kernel/quantize.hpp>
#include <moesaic/cuda/stream.hpp>

namespace moesaic::cuda {

namespace quantize_detail {

template <class X, class Written>
void start(stream& where, typename quantize_rows<X, Written>::params const& p) {
  using kernel = quantize_rows<X, Written>;
  auto const groups = p.x.rows * packed::ceil_div(p.x.columns, kernel::group);
  cuda::start<kernel>(where, {.x = static_cast<unsigned>(packed::ceil_div(groups, kernel::warps)), .early = true}, p);
}

}  // namespace quantize_detail

/// x [rows, inputs] to codes [rows, inputs] and scales [rows, ⌈inputs / 128⌉]: X is float or bf16. What groups::quantize<dtype::e4m3> gives for groups {1, 128},
/// or by scales that are the next powers of two. rows: how many there are, on the device, at most x.rows; null: x.rows.
template <class Tuning, class X>
void quantize(basic_stream_ref<Tuning>& where, view<X> x, view<std::uint8_t> codes, view<float> scales, std::int32_t const* rows = nullptr,
              input_codes kind = input_codes::e4m3) {
  quantize_detail::start<std::remove_const_t<X>, std::uint8_t>(where, {.x = x, .codes = codes, .scales = scales, .rows = rows, .kind = kind});
}

}  // namespace moesaic::cuda
