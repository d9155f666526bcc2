// One weight layout for prefill, decode and training: pairs of 16-column panels, tiles of 16 rows of 64 bytes.
// This file is the index map; who packs and who multiplies both read it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/dtype.hpp>

namespace moesaic {

/// A weight matrix [outputs, inputs] (y = W x), or `count` of them of one shape, one after another; packed.
///
/// Columns of a *panel* are 16 outputs. Two panels make a *pair*: outputs [32p, 32p + 16) and [32p + 16, 32p + 32) of a plain matrix; or,
/// with parts == 2 (gate and up side by side), outputs [16p, 16p + 16) of the gate and the same of the up projection.
/// Inputs run down the *rows*: a row holds 16 lanes of 32 bits, a lane holds `per_lane` consecutive inputs of one output:
///   fp32 1;  bf16, fp16 2;  int8, e4m3 4;  int4, mxfp4 8, where input 2j of a lane is nibble j, and input 2j + 1 is nibble 4 + j.
/// 16 rows are a *tile* (1 KiB; the operand of a matrix-tile instruction); the two tiles of a pair lie side by side, and the last tile of
/// a pair has only the rows it needs. After a pair's tiles come its scales, [groups][2][16] (fp32; for mxfp4 e8m0 bytes; for e4m3 the
/// scale of the block, repeated), then int4's zero points [groups][2][16] (bytes), each part padded to 64 bytes.
/// What lies beyond the matrix is zero.
struct packed_matrix {
  format stored;
  std::int64_t outputs = 0;          ///< of one part
  std::int64_t inputs = 0;
  int parts = 1;
  std::int64_t count = 1;            ///< matrices: experts
  const std::byte* data = nullptr;   ///< 64-byte aligned

  friend constexpr bool operator==(packed_matrix const&, packed_matrix const&) = default;
};

namespace packed {

inline constexpr int lanes = 16;
inline constexpr int tile_rows = 16;
inline constexpr std::int64_t row_bytes = 64;

MOESAIC_FN constexpr std::int64_t ceil_div(std::int64_t a, std::int64_t b) { return (a + b - 1) / b; }
MOESAIC_FN constexpr std::int64_t align64(std::int64_t bytes) { return ceil_div(bytes, 64) * 64; }

/// Inputs in one 32-bit lane.
MOESAIC_FN constexpr int per_lane(dtype t) { return 32 / bits(t); }

/// Pairs of panels of one matrix.
MOESAIC_FN constexpr std::int64_t pairs(packed_matrix const& m) { return m.parts == 2 ? ceil_div(m.outputs, lanes) : ceil_div(m.outputs, 2 * lanes); }
MOESAIC_FN constexpr std::int64_t rows(dtype t, std::int64_t inputs) { return ceil_div(inputs, per_lane(t)); }
/// Groups of inputs that share a scale (0 without scales).
MOESAIC_FN constexpr std::int64_t groups(format f, std::int64_t inputs) {
  return !has_scales(f.type) ? 0 : f.group == 0 ? 1 : ceil_div(inputs, f.group);
}

MOESAIC_FN constexpr std::int64_t tile_bytes(dtype t, std::int64_t inputs) { return rows(t, inputs) * 2 * row_bytes; }
MOESAIC_FN constexpr std::int64_t scale_bytes(format f, std::int64_t inputs) {
  return align64(groups(f, inputs) * 2 * lanes * (f.type == dtype::mxfp4 ? 1 : 4));
}
MOESAIC_FN constexpr std::int64_t zero_bytes(format f, std::int64_t inputs) { return f.zero_point ? align64(groups(f, inputs) * 2 * lanes) : 0; }

/// From one pair of panels to the next. Not inlined: every kernel of every format asks.
[[gnu::noinline]] MOESAIC_FN constexpr std::int64_t pair_bytes(format f, std::int64_t inputs) {
  return tile_bytes(f.type, inputs) + scale_bytes(f, inputs) + zero_bytes(f, inputs);
}
/// Of one matrix, and of all `count`.
MOESAIC_FN constexpr std::int64_t matrix_bytes(packed_matrix const& m) { return pairs(m) * pair_bytes(m.stored, m.inputs); }
MOESAIC_FN constexpr std::int64_t bytes(packed_matrix const& m) { return m.count * matrix_bytes(m); }

/// Byte offset, inside a pair, of row `row` of panel `panel` (0 or 1); `total_rows` = rows(type, inputs).
MOESAIC_FN constexpr std::int64_t row_offset(std::int64_t row, int panel, std::int64_t total_rows) {
  auto const tile = row / tile_rows;
  auto const left = total_rows - tile * tile_rows;
  auto const height = left < tile_rows ? left : tile_rows;
  return tile * (2 * tile_rows * row_bytes) + panel * height * row_bytes + (row % tile_rows) * row_bytes;
}

/// Which nibble of a 4-bit lane holds input `i` (0..7) of it.
MOESAIC_FN constexpr int nibble_of(int i) { return i / 2 + (i % 2) * 4; }

}  // namespace packed
}  // namespace moesaic
