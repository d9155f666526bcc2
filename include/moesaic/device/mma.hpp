// Matrix instructions: ldmatrix and mma.sync of a warp, wgmma of a warpgroup, and the fragments they work on. One function a PTX instruction.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>
#include <type_traits>

#include <moesaic/base/dtype.hpp>
#include <moesaic/base/macros.hpp>
#include <moesaic/device/copy.hpp>

namespace moesaic::device {

// Tiles of 8 × 8 elements of 16 bits, 16 bytes a row: lane 8 i + r gives the address of row r of tile i; register i of lane l holds row l / 4,
// elements 2 (l % 4) and the next of tile i (transposed: column l / 4).

template <int Tiles>   ///< 1, 2 or 4: ldmatrix.sync.aligned.m8n8.xN.shared.b16
MOESAIC_PRIMITIVE void ldmatrix(std::uint32_t (&r)[Tiles], void const* row);
template <int Tiles>
MOESAIC_PRIMITIVE void ldmatrix_trans(std::uint32_t (&r)[Tiles], void const* row);
template <int Tiles>   ///< stmatrix (sm_90)
MOESAIC_PRIMITIVE void stmatrix(void* row, std::uint32_t const (&r)[Tiles]);
template <int Tiles>
MOESAIC_PRIMITIVE void stmatrix_trans(void* row, std::uint32_t const (&r)[Tiles]);

/// What products of T are summed in.
template <dtype T>
using mma_accumulator = std::conditional_t<T == dtype::int8, std::int32_t, float>;
/// Elements of K in one step of mma and wgmma: 32 bytes.
template <dtype T>
inline constexpr int mma_k = bits(T) == 8 ? 32 : 16;

/// mma.sync.aligned.m16n8k(mma_k).row.col, T bf16, fp16 (sm_80), int8 (sm_80), e4m3 (sm_89): d [16, 8] += a [16, k] · b [k, 8]ᵀ, 4 elements of K a
/// register for 8-bit types, 2 for 16-bit ones. Lane l, g = l / 4, q = l % 4, w = elements a register:
///   a[0] row g, k q w ..;  a[1] row g + 8;  a[2] row g, k (q + 4) w ..;  a[3] row g + 8, the same;   b[0] column g, k q w ..;  b[1] k (q + 4) w ..
///   d[0], d[1] row g, columns 2 q, 2 q + 1;  d[2], d[3] row g + 8
template <dtype T>
MOESAIC_PRIMITIVE void mma_sync(mma_accumulator<T> (&d)[4], std::uint32_t const (&a)[4], std::uint32_t const (&b)[2]);

// wgmma (sm_90a): all 128 threads of a warpgroup; d [64, N] += a [64, k] · b [k, N], k = mma_k. Warp w of the warpgroup has rows 16 w .. 16 w + 15 of d;
// lane l: d[4 j], d[4 j + 1] row l / 4, columns 8 j + 2 (l % 4) and the next; d[4 j + 2], d[4 j + 3] row l / 4 + 8.

/// Operand in shared memory: start address, leading and stride byte offsets, all multiples of 16, and the swizzle. W = bytes_of(s), the width of a
/// row of a tile of 8 rows; tiles start at multiples of 8 W (the swizzle is of address bits), as a tensor map with this swizzle writes them. Bytes of
/// an operand with rows along
///   K, a row r of M or N and byte y of its step's 32:   (r % 8) W + (r / 8) stride + y;  none: (r % 8) 16 + (r / 8) stride + (y / 16) leading + y % 16.
///      The next step of K: start + 32 inside W. With a swizzle `leading` is not read.
///   M or N (16-bit types), row k of the step's 16 and byte x of its M or N:
///      (k % 8) W + (k / 8) stride + (x / W) leading + x % W;  none: (k % 8) 16 + (k / 8) leading + (x / 16) stride + x % 16.
///      The next step of K: two tiles of 8 rows further. `leading` is not read where all of M or N lies inside W.
MOESAIC_FN constexpr std::uint64_t wgmma_descriptor(std::uint32_t address, std::uint32_t leading_bytes, std::uint32_t stride_bytes, swizzle s) {
  auto const field = [](std::uint32_t bytes) { return static_cast<std::uint64_t>((bytes & 0x3'ffffu) >> 4); };
  std::uint64_t const layout = s == swizzle::none ? 0 : s == swizzle::b128 ? 1 : s == swizzle::b64 ? 2 : 3;
  return field(address) | field(leading_bytes) << 16 | field(stride_bytes) << 32 | layout << 62;
}

/// Whether an operand's rows run along K (0) or along M or N (1; 16-bit types only).
enum class major : std::uint8_t { k = 0, mn = 1 };

/// N is a multiple of 8, 8 .. 256; of int8 beyond 24 a multiple of 16.
MOESAIC_FN constexpr bool wgmma_takes(dtype t, int n) { return n >= 8 && n <= 256 && n % (t == dtype::int8 && n > 24 ? 16 : 8) == 0; }

MOESAIC_PRIMITIVE void wgmma_fence();                             ///< wgmma.fence.sync.aligned: before the first one, and after registers were touched
MOESAIC_PRIMITIVE void wgmma_commit_group();
template <int Pending>
MOESAIC_PRIMITIVE void wgmma_wait_group();                        ///< until at most `Pending` groups are under way; before, d and register operands are not touched
/// wgmma.mma_async.sync.aligned.m64nNk(mma_k): T bf16, fp16, e4m3, int8; N as wgmma_takes says. add false: d = a · b. Every warp of the warpgroup
/// gives the same descriptors.
template <dtype T, int N, major A = major::k, major B = major::k>
MOESAIC_PRIMITIVE void wgmma(mma_accumulator<T> (&d)[N / 2], std::uint64_t a, std::uint64_t b, bool add);
/// The same with a in registers, laid out as mma_sync's of the warp's 16 rows.
template <dtype T, int N, major B = major::k>
MOESAIC_PRIMITIVE void wgmma(mma_accumulator<T> (&d)[N / 2], std::uint32_t const (&a)[4], std::uint64_t b, bool add);
/// Keeps the compiler from moving what is done with d or a across a fence or a wait: said before wgmma_fence and after wgmma_wait_group, or ptxas puts
/// fences and waits of its own between them (C7519). An empty asm per register; nothing on a model.
template <class T, int Count>
MOESAIC_PRIMITIVE void wgmma_hold(T (&registers)[Count]);

}  // namespace moesaic::device
