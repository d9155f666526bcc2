// How the CUDA backend lays packed weights: the bytes of a packed_matrix in an order that the copy engine and the tensor cores read.
// This file is the index map; who packs and who multiplies both read it.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/macros.hpp>
#include <moesaic/base/packed.hpp>

namespace moesaic::cuda::layout {

// A matrix takes packed::matrix_bytes(m), as on the host, so that sizes do not depend on where weights go; what is not used is zero. One of `count`
// begins matrix_bytes after the one before.
//
// Rows: outputs of one part in order; of gate and up, eight rows of the gate, then the same eight of the up projection, and so on, so that a thread of
// a matrix instruction holds both of an output. K is `inputs`.
//   fp32, bf16, fp16, int8, e4m3   element (row, k) at (row · K + k) elements: rows of K bytes · size, which a tensor map describes
//   int4, mxfp4                    stripes of 16 rows, and in a stripe 16 inputs (a step) a word a lane, in the order of the registers of mma's and
//                                  wgmma's operand a; four steps lie side by side (16 bytes a lane), fewer at the end of a row:
//                                  word (stripe, step, lane) holds for lane = 4 g + q: nibble r = row g + 8 (r % 2), input 2 q + 8 (r / 2), and
//                                  nibble 4 + r the input after it, r = 0 .. 3. K must be a multiple of 16. int4 codes are stored with 8 added
//                                  (0 .. 15), so that −8 .. 7 is code − 8; those with zero points are 0 .. 15 anyway.
// Scales, from scales_at on:
//   int8, int4   fp32 [groups, rows];   mxfp4   e8m0 bytes [groups, rows]
//   e4m3         fp32 [blocks of K, parts, blocks of outputs]: edge blocks are short
// int4's zero points, from zeros_at on: bytes [groups, rows].

MOESAIC_FN constexpr std::int64_t rows(packed_matrix const& m) { return m.parts * m.outputs; }
MOESAIC_FN constexpr std::int64_t row_of(int parts, int part, std::int64_t output) {
  return parts == 1 ? output : output / 8 * 16 + part * 8 + output % 8;
}
/// The way back from a row.
MOESAIC_FN constexpr int part_of(int parts, std::int64_t row) { return parts == 1 ? 0 : static_cast<int>(row / 8 % 2); }
MOESAIC_FN constexpr std::int64_t output_of(int parts, std::int64_t row) { return parts == 1 ? row : row / 16 * 8 + row % 8; }

inline constexpr int stripe_rows = 16;
inline constexpr int step_inputs = 16;
inline constexpr int steps_together = 4;

MOESAIC_FN constexpr bool in_stripes(dtype t) { return bits(t) == 4; }

/// Byte offset of a lane's word for a step of a stripe.
MOESAIC_FN constexpr std::int64_t word_at(std::int64_t inputs, std::int64_t stripe, std::int64_t step, int lane) {
  auto const steps = inputs / step_inputs, first = step / steps_together * steps_together;
  auto const together = steps - first < steps_together ? steps - first : steps_together;
  return (stripe * steps + first) * 128 + lane * together * 4 + (step - first) * 4;
}
/// Lane and nibble of an element inside a stripe and step.
struct nibble {
  int lane, index;
};
MOESAIC_FN constexpr nibble nibble_of(int row, int input) {
  auto const r = row / 8 + 2 * (input / 8);
  return {row % 8 * 4 + input % 8 / 2, r + 4 * (input % 2)};
}

MOESAIC_FN constexpr std::int64_t data_bytes(packed_matrix const& m) {
  auto const n = in_stripes(m.stored.type) ? packed::ceil_div(rows(m), stripe_rows) * stripe_rows : rows(m);
  return n * m.inputs * bits(m.stored.type) / 8;
}
MOESAIC_FN constexpr std::int64_t scales_at(packed_matrix const& m) { return packed::align64(data_bytes(m)); }
MOESAIC_FN constexpr std::int64_t output_blocks(packed_matrix const& m) { return packed::ceil_div(m.outputs, m.stored.group); }
MOESAIC_FN constexpr std::int64_t scale_index(packed_matrix const& m, std::int64_t group, std::int64_t row) {
  if (m.stored.type != dtype::e4m3) return group * rows(m) + row;
  return (group * m.parts + part_of(m.parts, row)) * output_blocks(m) + output_of(m.parts, row) / m.stored.group;
}
MOESAIC_FN constexpr std::int64_t scale_count(packed_matrix const& m) {
  auto const groups = packed::groups(m.stored, m.inputs);
  return groups * (m.stored.type == dtype::e4m3 ? m.parts * output_blocks(m) : rows(m));
}
MOESAIC_FN constexpr std::int64_t zeros_at(packed_matrix const& m) {
  return scales_at(m) + packed::align64(scale_count(m) * (m.stored.type == dtype::mxfp4 ? 1 : 4));
}
/// What is used of matrix_bytes.
MOESAIC_FN constexpr std::int64_t used_bytes(packed_matrix const& m) {
  return zeros_at(m) + (m.stored.zero_point ? packed::align64(scale_count(m)) : 0);
}

/// Whether the CUDA kernels take it: inputs a multiple of 16, outputs of gate and up of 8. used_bytes never exceeds matrix_bytes then.
MOESAIC_FN constexpr bool takes(packed_matrix const& m) { return m.inputs % 16 == 0 && (m.parts == 1 || m.outputs % 8 == 0); }

}  // namespace moesaic::cuda::layout
