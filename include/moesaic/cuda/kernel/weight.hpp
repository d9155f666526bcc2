// Weights out of the CUDA layout, as fp32: for kernels without matrix instructions.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/cuda/kernel/gemm.hpp>

namespace moesaic::cuda {

/// Scale, and zero point, of weight (row, k) of the matrix that begins at `matrix`.
template <dtype D>
MOESAIC_DEVICE group_scale scale_at(weight_view const& w, std::byte const* matrix, int row, int k) {
  group_scale s;
  if constexpr (has_scales(D)) {
    auto const* const scales = matrix + w.scales_at;
    int const g = k / w.group;
    auto const at = static_cast<std::int64_t>(g) * w.rows + row;
    if constexpr (D == dtype::mxfp4) {
      s.scale = e8m0::from_bits(static_cast<std::uint8_t>(scales[at]));
    } else if constexpr (D == dtype::e4m3) {
      int const along = (w.outputs + w.group - 1) / w.group, output = static_cast<int>(layout::output_of(w.parts, row));
      s.scale = reinterpret_cast<float const*>(scales)[(g * w.parts + layout::part_of(w.parts, row)) * along + output / w.group];
    } else {
      s.scale = reinterpret_cast<float const*>(scales)[at];
      if (w.zero_point) s.zero = static_cast<int>(matrix[w.zeros_at + at]);
    }
  }
  return s;
}

/// A stored code as the host dequantises it: code · scale, rounded to float once.
template <dtype D>
MOESAIC_DEVICE float weight_of(std::uint32_t code, group_scale s, bool zero_point) {
  if constexpr (D == dtype::fp32) return bit_cast<float>(code);
  else if constexpr (D == dtype::bf16) return bf16::from_bits(static_cast<std::uint16_t>(code));
  else if constexpr (D == dtype::fp16) return fp16::from_bits(static_cast<std::uint16_t>(code));
  else if constexpr (D == dtype::int4) return groups::decode<D>(zero_point ? code : code ^ 8u, s, zero_point);
  else return groups::decode<D>(code, s);
}

/// Four weights of a row, inputs k .. k + 3, k a multiple of 4: they share a scale.
template <dtype D>
MOESAIC_DEVICE void weights_at(weight_view const& w, std::byte const* matrix, int row, int k, float (&weight)[4]) {
  std::uint32_t code[4];
  if constexpr (layout::in_stripes(D)) {
    auto const first = layout::nibble_of(row % layout::stripe_rows, k % layout::step_inputs);   // the two inputs after lie in the next lane's word
    auto const stripe = row / layout::stripe_rows, step = k / layout::step_inputs;
    MOESAIC_UNROLL
    for (int pair = 0; pair < 2; ++pair) {
      std::uint32_t const word = *reinterpret_cast<std::uint32_t const*>(matrix + layout::word_at(w.inputs, stripe, step, first.lane + pair));
      code[2 * pair] = word >> 4 * first.index & 15u;
      code[2 * pair + 1] = word >> (4 * first.index + 16) & 15u;
    }
  } else {
    auto const* const at = matrix + (static_cast<std::int64_t>(row) * w.inputs + k) * (bits(D) / 8);
    constexpr int words = bits(D) / 8;
    struct alignas(4 * words) run {
      std::uint32_t word[words];
    };
    auto const all = *reinterpret_cast<run const*>(at);
    constexpr int in_word = 4 / words;
    MOESAIC_UNROLL
    for (int i = 0; i < 4; ++i) code[i] = all.word[i / in_word] >> i % in_word * (32 / in_word) & (0xffff'ffffu >> (32 - bits(D)));
  }
  auto const s = scale_at<D>(w, matrix, row, k);
  MOESAIC_UNROLL
  for (int i = 0; i < 4; ++i) weight[i] = weight_of<D>(code[i], s, w.zero_point);
}

}  // namespace moesaic::cuda
