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

/// x [rows, inputs] to codes [rows, inputs] and scales [rows, ⌈inputs / 128⌉]: X is float or bf16. What groups::quantize<dtype::e4m3> gives for groups {1, 128}.
/// rows: how many there are, on the device, at most x.rows; null: x.rows.
template <class Tuning, class X>
void quantize(basic_stream_ref<Tuning>& where, view<X> x, view<std::uint8_t> codes, view<float> scales, std::int32_t const* rows = nullptr) {
  using kernel = quantize_rows<std::remove_const_t<X>>;
  auto const groups = x.rows * packed::ceil_div(x.columns, kernel::group);
  start<kernel>(where, {.x = static_cast<unsigned>(packed::ceil_div(groups, kernel::warps)), .early = true}, {.x = x, .codes = codes, .scales = scales, .rows = rows});
}

}  // namespace moesaic::cuda
