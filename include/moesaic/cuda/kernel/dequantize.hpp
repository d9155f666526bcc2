// Codes of weights as pairs of bf16 for matrix instructions, exactly.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/dtype.hpp>
#include <moesaic/device/thread.hpp>

namespace moesaic::cuda {

// A code is moved to where bf16 has its fields, which gives the number times a power of two, or plus one; one fused operation takes that away. Every
// step is exact: integers up to 256 and the 8-bit and 4-bit floats fit in bf16.

/// Bytes First and First + 1 of a word of e4m3 or int8 codes, as the low and the high half.
template <dtype W, int First>
MOESAIC_DEVICE std::uint32_t bf16x2_of_bytes(std::uint32_t word) {
  static_assert((W == dtype::e4m3 || W == dtype::int8) && (First == 0 || First == 2));
  if constexpr (W == dtype::int8) {
    std::uint32_t const t = device::prmt(word, 0, First == 0 ? 0x4140u : 0x4342u);
    // 128 + the lower seven bits, less 128, or 256 for a negative one.
    return device::fma_bf16x2((t & 0x007f'007fu) | 0x4300'4300u, 0x3f80'3f80u, (t & 0x0080'0080u) | 0xc300'c300u);
  } else {
    std::uint32_t const t = device::prmt(word, 0, First == 0 ? 0x1404u : 0x3424u);
    return device::fma_bf16x2((t & 0x8000'8000u) | (t >> 4 & 0x07f0'07f0u), 0x7b80'7b80u, 0);   // · 2^120: the biases are 7 and 127
  }
}

/// What is subtracted from int4 codes, as both halves of a pair: 128 + 8, or 128 + the zero point.
inline constexpr std::uint32_t int4_offset = 0xc308'c308u;
MOESAIC_DEVICE std::uint32_t int4_offset_of(std::uint32_t zero) { return (zero << 16 | zero) | 0xc300'c300u; }

/// Register `r` of a matrix instruction's operand a from a lane's word of a stripe (cuda/layout.hpp).
template <dtype W>
MOESAIC_DEVICE std::uint32_t bf16x2_of_nibbles(std::uint32_t word, int r, [[maybe_unused]] std::uint32_t offset) {
  static_assert(W == dtype::int4 || W == dtype::mxfp4);
  std::uint32_t const t = word >> (4 * r) & 0x000f'000fu;
  if constexpr (W == dtype::int4) return device::fma_bf16x2(t | 0x4300'4300u, 0x3f80'3f80u, offset);
  else return device::fma_bf16x2((t & 0x0008'0008u) << 12 | (t & 0x0007'0007u) << 6, 0x7e80'7e80u, 0);   // · 2^126
}

}  // namespace moesaic::cuda
