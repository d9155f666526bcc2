// One weight out of the CUDA layout, as fp32: for kernels that read single rows, not tiles.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/groups.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>

namespace moesaic::cuda {

/// Weight (row, k) of the matrix that begins at `matrix`, dequantised as the host does: code · scale, rounded to float once.
template <dtype D>
MOESAIC_DEVICE float weight_at(weight_view const& w, std::byte const* matrix, std::int64_t row, std::int64_t k) {
  if constexpr (D == dtype::fp32) return reinterpret_cast<float const*>(matrix)[row * w.inputs + k];
  else if constexpr (D == dtype::bf16) return static_cast<float>(reinterpret_cast<bf16 const*>(matrix)[row * w.inputs + k]);
  else if constexpr (D == dtype::fp16) return static_cast<float>(reinterpret_cast<fp16 const*>(matrix)[row * w.inputs + k]);
  else {
    std::uint32_t code;
    if constexpr (layout::in_stripes(D)) {
      auto const at = layout::nibble_of(static_cast<int>(row % layout::stripe_rows), static_cast<int>(k % layout::step_inputs));
      auto const word = *reinterpret_cast<std::uint32_t const*>(matrix + layout::word_at(w.inputs, row / layout::stripe_rows, k / layout::step_inputs, at.lane));
      code = word >> (4 * at.index) & 15u;
      if (D == dtype::int4 && !w.zero_point) code ^= 8u;
    } else {
      code = static_cast<std::uint32_t>(matrix[row * w.inputs + k]);
    }
    auto const g = k / w.group;
    group_scale s;
    if constexpr (D == dtype::mxfp4) {
      s.scale = static_cast<float>(e8m0::from_bits(static_cast<std::uint8_t>(matrix[w.scales_at + g * w.rows + row])));
    } else if constexpr (D == dtype::e4m3) {
      auto const blocks = (w.outputs + w.group - 1) / w.group;
      auto const at = (g * w.parts + layout::part_of(w.parts, row)) * blocks + layout::output_of(w.parts, row) / w.group;
      s.scale = reinterpret_cast<float const*>(matrix + w.scales_at)[at];
    } else {
      s.scale = reinterpret_cast<float const*>(matrix + w.scales_at)[g * w.rows + row];
      if (w.zero_point) s.zero = static_cast<int>(matrix[w.zeros_at + g * w.rows + row]);
    }
    return groups::decode<D>(code, s, w.zero_point);
  }
}

}  // namespace moesaic::cuda
