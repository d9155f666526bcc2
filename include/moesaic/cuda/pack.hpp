// Turns rows of fp32 weights into the layout of cuda/layout.hpp, quantising on the way, and single weights back. In host memory: set-up moves it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/quantizer.hpp>
#include <moesaic/cuda/layout.hpp>
#include <moesaic/cuda/stream.hpp>

namespace moesaic::cuda {

namespace pack_detail {

inline void check(packed_matrix const& m, std::int64_t index) {
  packing::check(m, index);
  if (m.inputs % 16 != 0) packing::fail({"expected inputs that are a multiple of 16 for CUDA, found ", m.inputs});
  if (m.parts == 2 && m.outputs % 8 != 0) packing::fail({"expected outputs of gate and up that are a multiple of 8 for CUDA, found ", m.outputs});
}

// int4 without zero points is stored with 8 added: the code with its sign flipped.
template <dtype D>
constexpr std::uint32_t stored_code(std::uint32_t code, bool zero_point) {
  return D == dtype::int4 && !zero_point ? code ^ 8u : code;
}

// Byte offset and shift of the code of (row, input) of a matrix of 4-bit codes.
struct nibble_place {
  std::int64_t at;
  int shift;
};
constexpr nibble_place place_of(packed_matrix const& m, std::int64_t row, std::int64_t input) {
  auto const in_tile = layout::nibble_of(static_cast<int>(row % layout::stripe_rows), static_cast<int>(input % layout::step_inputs));
  auto const word = layout::word_at(m.inputs, row / layout::stripe_rows, input / layout::step_inputs, in_tile.lane);
  return {word + in_tile.index / 2, in_tile.index % 2 * 4};
}

template <dtype D>
void write_row(packed_matrix const& m, packing::quantizer const& from, std::int64_t row, std::byte* matrix) {
  from.for_each_group([&](auto g, auto k0, auto k1) {
    auto const s = from.scale(g);
    for (auto k = k0; k < k1; ++k) {
      auto const code = from.template code<D>(k, s);
      if constexpr (layout::in_stripes(D)) {
        auto const at = place_of(m, row, k);
        matrix[at.at] |= static_cast<std::byte>(stored_code<D>(code, m.stored.zero_point) << at.shift);
      } else {
        std::memcpy(matrix + (row * m.inputs + k) * (bits(D) / 8), &code, bits(D) / 8);
      }
    }
    if constexpr (has_scales(D)) {
      auto const at = layout::scale_index(m, g, row);
      if constexpr (D == dtype::mxfp4) matrix[layout::scales_at(m) + at] = static_cast<std::byte>(e8m0(s.scale).bits);
      else std::memcpy(matrix + layout::scales_at(m) + 4 * at, &s.scale, 4);
      if (m.stored.zero_point) matrix[layout::zeros_at(m) + at] = static_cast<std::byte>(s.zero);
    }
  });
}

template <dtype D>
float weight(packed_matrix const& m, std::byte const* matrix, std::int64_t row, std::int64_t input) {
  std::uint32_t code = 0;
  if constexpr (layout::in_stripes(D)) {
    auto const at = place_of(m, row, input);
    code = stored_code<D>(static_cast<std::uint32_t>(matrix[at.at]) >> at.shift & 15u, m.stored.zero_point);
  } else {
    std::memcpy(&code, matrix + (row * m.inputs + input) * (bits(D) / 8), bits(D) / 8);
  }
  group_scale s;
  if constexpr (has_scales(D)) {
    auto const at = layout::scale_index(m, input / packing::group_inputs(m), row);
    if constexpr (D == dtype::mxfp4) s.scale = e8m0::from_bits(static_cast<std::uint8_t>(matrix[layout::scales_at(m) + at]));
    else std::memcpy(&s.scale, matrix + layout::scales_at(m) + 4 * at, 4);
    if (m.stored.zero_point) s.zero = static_cast<int>(matrix[layout::zeros_at(m) + at]);
  }
  return packing::decode<D>(code, s, m.stored.zero_point);
}

template <dtype Promised>
void pack(packed_matrix const& m, std::int64_t index, packing::row_source source, std::byte* out) {
  check(m, index);
  packing::with_type<Promised>(m, [&](auto type) {
    auto const bytes = packed::matrix_bytes(m);
    auto* const matrix = out + index * bytes;
    std::memset(matrix, 0, static_cast<std::size_t>(bytes));
    packing::quantizer rows(m, index, source);
    for (int part = 0; part < m.parts; ++part)
      for (std::int64_t output = 0; output < m.outputs; ++output) {
        rows.take<type()>(part, output);
        write_row<type()>(m, rows, layout::row_of(m.parts, part, output), matrix);
      }
  });
}

}  // namespace pack_detail

/// Packs matrix `index` of `m` into the host memory that m.data points to; codes and scales are those of host::pack, but that scales which a source
/// of e4m3 has are kept only where blocks begin at the same rows: this layout has one for a block.
/// `source(part, output, float* row)` writes the inputs of one output, [inputs], and may be asked for a row twice.
/// Throws `error` for a matrix that cannot be packed and for a weight that is NaN, infinite or too large for the format.
/// Promised: the stored type where it is known, so that only code for that is made.
template <dtype Promised = dtype::same, class RowSource>
void pack(stream&, packed_matrix const& m, std::int64_t index, RowSource const& source) {
  pack_detail::pack<Promised>(m, index, packing::as_row_source(source), const_cast<std::byte*>(m.data));
}

/// The weight of (part, output, input) of matrix `index`, in host memory: code · scale, rounded to float once.
inline float unpack(packed_matrix const& m, std::int64_t index, int part, std::int64_t output, std::int64_t input) {
  auto const* const matrix = m.data + index * packed::matrix_bytes(m);
  return packing::with_type<dtype::same>(
      m, [&](auto type) { return pack_detail::weight<type()>(m, matrix, layout::row_of(m.parts, part, output), input); });
}

}  // namespace moesaic::cuda
