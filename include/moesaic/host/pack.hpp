// Turns rows of fp32 weights into the packed layout of base/packed.hpp, quantising on the way, and single weights back.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/floats.hpp>
#include <moesaic/base/groups.hpp>
#include <moesaic/base/packed.hpp>
#include <moesaic/base/quantizer.hpp>

namespace moesaic::host {

namespace pack_detail {

using namespace packing;

// Where an output lives: which pair of panels of its matrix, which panel of the pair, which lane of the panel.
struct place {
  std::int64_t pair;
  int panel, lane;
};

inline place place_of(packed_matrix const& m, int part, std::int64_t output) {
  auto const lane = static_cast<int>(output % packed::lanes);
  if (m.parts == 2) return {output / packed::lanes, part, lane};
  return {output / (2 * packed::lanes), static_cast<int>(output / packed::lanes % 2), lane};
}

// The first output of a panel, and the part it belongs to: the way back.
inline std::int64_t first_output(packed_matrix const& m, std::int64_t pair, int panel) {
  return m.parts == 2 ? pair * packed::lanes : (2 * pair + panel) * packed::lanes;
}
inline int part_of(packed_matrix const& m, int panel) { return m.parts == 2 ? panel : 0; }

// Byte offsets inside a pair.
inline std::int64_t scales_at(packed_matrix const& m) { return packed::tile_bytes(m.stored.type, m.inputs); }
inline std::int64_t zeros_at(packed_matrix const& m) { return scales_at(m) + packed::scale_bytes(m.stored, m.inputs); }
// Index of a scale or zero point among those of its pair.
inline std::int64_t scale_index(std::int64_t group, int panel, int lane) { return (group * 2 + panel) * packed::lanes + lane; }

// How far the code of input i of a lane is shifted.
template <dtype D>
constexpr int shift_of(int i) {
  return bits(D) == 4 ? 4 * packed::nibble_of(i) : bits(D) * i;
}

inline void check(packed_matrix const& m, std::int64_t index, std::int64_t first_pair, std::int64_t last_pair) {
  packing::check(m, index);
  if (first_pair < 0 || last_pair > packed::pairs(m) || first_pair > last_pair)
    fail({"expected pairs within 0 .. ", packed::pairs(m), ", found ", first_pair, " .. ", last_pair});
}

// A row's codes and scales into lane `lane` of panel `panel` of a pair at `out`, which is zero on entry.
template <dtype D>
void write_lane(packed_matrix const& m, quantizer const& from, int panel, int lane, std::byte* out) {
  constexpr auto per_lane = packed::per_lane(D);
  auto const total_rows = packed::rows(D, m.inputs);
  from.for_each_group([&](auto g, auto k0, auto k1) {
    auto const s = from.scale(g);
    for (auto k = k0; k < k1; k += per_lane) {
      std::uint32_t word = 0;
      if (k + per_lane <= k1) {
        for (int i = 0; i < per_lane; ++i) word |= from.template code<D>(k + i, s) << shift_of<D>(i);
      } else {
        for (int i = 0; i < k1 - k; ++i) word |= from.template code<D>(k + i, s) << shift_of<D>(i);
      }
      std::memcpy(out + packed::row_offset(k / per_lane, panel, total_rows) + 4 * lane, &word, 4);
    }
    if constexpr (has_scales(D)) {
      auto const at = scale_index(g, panel, lane);
      if constexpr (D == dtype::mxfp4) out[scales_at(m) + at] = static_cast<std::byte>(e8m0(s.scale).bits);
      else std::memcpy(out + scales_at(m) + 4 * at, &s.scale, 4);
      if (m.stored.zero_point) out[zeros_at(m) + at] = static_cast<std::byte>(s.zero);
    }
  });
}

template <dtype Promised>
void pack_pairs(packed_matrix const& m, std::int64_t index, row_source source, std::byte* out, std::int64_t first_pair,
                std::int64_t last_pair) {
  check(m, index, first_pair, last_pair);
  with_type<Promised>(m, [&](auto type) {
    auto const bytes = packed::pair_bytes(m.stored, m.inputs);
    quantizer rows(m, index, source, true);
    for (auto pair = first_pair; pair < last_pair; ++pair) {
      auto* const at = out + index * packed::matrix_bytes(m) + pair * bytes;
      std::memset(at, 0, static_cast<std::size_t>(bytes));
      for (int panel = 0; panel < 2; ++panel) {
        auto const first = first_output(m, pair, panel);
        for (int lane = 0; lane < packed::lanes && first + lane < m.outputs; ++lane) {
          rows.take<type()>(part_of(m, panel), first + lane);
          write_lane<type()>(m, rows, panel, lane, at);
        }
      }
    }
  });
}

// One weight, of a lane of a pair that begins at `pair`.
template <dtype D>
float weight(packed_matrix const& m, const std::byte* pair, int panel, int lane, std::int64_t input) {
  constexpr auto per_lane = packed::per_lane(D);
  std::uint32_t word;
  std::memcpy(&word, pair + packed::row_offset(input / per_lane, panel, packed::rows(D, m.inputs)) + 4 * lane, 4);
  auto const code = (word >> shift_of<D>(static_cast<int>(input % per_lane))) & (0xffff'ffffu >> (32 - bits(D)));
  group_scale s;
  if constexpr (has_scales(D)) {
    auto const at = scale_index(input / group_inputs(m), panel, lane);
    if constexpr (D == dtype::mxfp4) s.scale = e8m0::from_bits(static_cast<std::uint8_t>(pair[scales_at(m) + at]));
    else std::memcpy(&s.scale, pair + scales_at(m) + 4 * at, 4);
    if (m.stored.zero_point) s.zero = static_cast<int>(pair[zeros_at(m) + at]);
  }
  return decode<D>(code, s, m.stored.zero_point);
}

}  // namespace pack_detail

/// Packs pairs [first_pair, last_pair) of matrix `index` (0 .. count - 1); pairs are independent, so threads may share a matrix.
/// `source(part, output, float* row)` writes the inputs of one output, [inputs], and may be asked for a row twice.
/// `out` holds all `count` matrices, packed::bytes(m); m.data is not used. Formats narrower than fp32 are rounded or quantised as
/// base/groups.hpp says; rows whose source has scales (packing::row_source) keep these and their codes. What lies beyond the matrix becomes zero.
/// Throws `error` for a matrix that cannot be packed and for a weight that is NaN, infinite or too large for the format.
/// Promised: the stored type where it is known, so that only code for that is made.
template <dtype Promised = dtype::same, class RowSource>
void pack_pairs(packed_matrix const& m, std::int64_t index, RowSource&& source, std::byte* out, std::int64_t first_pair,
                std::int64_t last_pair) {
  pack_detail::pack_pairs<Promised>(m, index, packing::as_row_source(source), out, first_pair, last_pair);
}

/// Packs all of matrix `index`; see pack_pairs.
template <dtype Promised = dtype::same, class RowSource>
void pack(packed_matrix const& m, std::int64_t index, RowSource&& source, std::byte* out) {
  pack_pairs<Promised>(m, index, source, out, 0, packed::pairs(m));
}

/// The weight of (part, output, input) of matrix `index`, dequantised as the fp32 kernels do: code · scale, rounded to float once.
inline float unpack(packed_matrix const& m, std::int64_t index, int part, std::int64_t output, std::int64_t input) {
  auto const at = pack_detail::place_of(m, part, output);
  auto const* pair = m.data + index * packed::matrix_bytes(m) + at.pair * packed::pair_bytes(m.stored, m.inputs);
  return pack_detail::with_type<dtype::same>(m, [&](auto type) { return pack_detail::weight<type()>(m, pair, at.panel, at.lane, input); });
}

/// All inputs of one output, into row [inputs].
inline void unpack_row(packed_matrix const& m, std::int64_t index, int part, std::int64_t output, float* row) {
  auto const at = pack_detail::place_of(m, part, output);
  auto const* pair = m.data + index * packed::matrix_bytes(m) + at.pair * packed::pair_bytes(m.stored, m.inputs);
  pack_detail::with_type<dtype::same>(m, [&](auto type) {
    for (std::int64_t k = 0; k < m.inputs; ++k) row[k] = pack_detail::weight<type()>(m, pair, at.panel, at.lane, k);
  });
}

}  // namespace moesaic::host
