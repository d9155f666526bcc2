// Codes of quantised weights in shared memory to the register operand of wgmma: exact bf16 values, 64 inputs at a time.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstddef>
#include <cstdint>

#include <moesaic/base/dtype.hpp>
#include <moesaic/cuda/kernel/dequantize.hpp>
#include <moesaic/cuda/layout.hpp>
#include <moesaic/device/device.hpp>

namespace moesaic::cuda::sm90 {

/// Operand a of four steps of 16 inputs: word r of a step holds row g + 8 (r % 2), inputs 2 q + 8 (r / 2) and the next, lane 4 g + q.
using operand = std::uint32_t[4][4];

/// Codes of W in a stage of 128 inputs and `Rows` rows, as the copy engine leaves them; scales and zero points [groups, Rows], groups 1, 2 or 4.
template <dtype W, int Interval, int Rows>
struct codes {
  std::byte const* weights;
  std::byte const* scales;
  std::byte const* zeros;
  int groups;
  bool zero_point;

  /// Where the scale of a row of interval i is.
  MOESAIC_DEVICE int scale_at(int i, int row) const { return i * groups / (128 / Interval) * Rows + row; }
  MOESAIC_DEVICE float scale(int i, int row) const { return reinterpret_cast<float const*>(scales)[scale_at(i, row)]; }

  /// Inputs 64 · Half and on of the warp's 16 rows from `row`; `inputs`: those of the matrix from the stage's first on.
  template <int Half>
  MOESAIC_DEVICE void load(operand& a, int row, int inputs) const {
    int const lane = device::lane_id(), g = lane / 4, quad = lane % 4;
    if constexpr (layout::in_stripes(W)) {
      // Four steps side by side, 16 bytes a lane; fewer where the row ends.
      std::byte const* const stripe = weights + row / layout::stripe_rows * 1024 + Half * 512;
      int const together = inputs / layout::step_inputs - 4 * Half;
      device::words4 four{};
      if (together >= 4 || together <= 0) four = *reinterpret_cast<device::words4 const*>(stripe + lane * 16);
      else {
        MOESAIC_UNROLL
        for (int i = 0; i < 3; ++i)
          if (i < together) four.word[i] = *reinterpret_cast<std::uint32_t const*>(stripe + (lane * together + i) * 4);
      }
      MOESAIC_UNROLL
      for (int j = 0; j < 64; j += Interval) {
        int const at = scale_at((64 * Half + j) / Interval, row + g);
        std::uint32_t of_row[2];                       // of row g and of row g + 8: what is subtracted, or the scale
        MOESAIC_UNROLL
        for (int r = 0; r < 2; ++r) {
          if constexpr (W == dtype::int4) of_row[r] = zero_point ? int4_offset_of(static_cast<std::uint32_t>(zeros[at + 8 * r])) : int4_offset;
          else of_row[r] = power_of_two(scales[at + 8 * r]);
        }
        MOESAIC_UNROLL
        for (int i = j / 16; i < (j + Interval) / 16 && i < 4; ++i)
          MOESAIC_UNROLL
          for (int r = 0; r < 4; ++r) {
            a[i][r] = bf16x2_of_nibbles<W>(four.word[i], r, of_row[r % 2]);
            if constexpr (W == dtype::mxfp4) a[i][r] = device::fma_bf16x2(a[i][r], of_row[r % 2], minus_zero_twice);   // exact: codes have two bits
          }
      }
    } else {
      // Rows of 128 bytes whose 16-byte parts the copy engine has swapped by the row's number.
      std::byte const* const upper = weights + (row + g) * 128 + 2 * quad;
      MOESAIC_UNROLL
      for (int i = 0; i < 4; ++i) {
        std::byte const* const part = upper + ((4 * Half + i) ^ g) * 16;
        MOESAIC_UNROLL
        for (int r = 0; r < 4; ++r) a[i][r] = bf16x2_of_bytes<W, 0>(*reinterpret_cast<std::uint16_t const*>(part + r % 2 * 8 * 128 + r / 2 * 8));
      }
    }
  }

 private:
  static constexpr std::uint32_t minus_zero_twice = 0x8000'8000u;
  // e8m0 as bf16, twice; 2^-127 is subnormal there.
  MOESAIC_DEVICE static std::uint32_t power_of_two(std::byte code) {
    auto const e = static_cast<std::uint32_t>(code);
    return (e == 0 ? 0x40u : e == 255 ? 0x7fc0u : e << 7) * 0x1'0001u;
  }
};

}  // namespace moesaic::cuda::sm90
