// Which kernels a program holds, and which of them a device gets: numbers only, checked by any compiler.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

namespace moesaic::cuda {

/// Variants of an op, from the plainest to the fastest. Every one stays runnable and gives the same answer within the format's bound.
///   simt   any GPU: plain loads and fused multiply-adds
///   sm80   cp.async, ldmatrix, mma.sync (Ampere and later)
///   sm90   copy engine, mbarriers, wgmma, warp-specialised (Hopper: 90a)
enum class rung : std::uint8_t { simt, sm80, sm90 };

/// The least architecture that runs a rung.
constexpr int architecture_of(rung r) { return r == rung::simt ? 70 : r == rung::sm80 ? 80 : 90; }

/// Above every architecture, of those from which on something holds.
inline constexpr int newest_architecture = 999;

/// What a program compiles in by default: every rung. That does not depend on what nvcc compiles for, since a .cpp that calls and the .cu that holds the
/// kernels must agree.
struct default_tuning {
  static constexpr bool has(rung) { return true; }
};

/// Some rungs alone, and what they have nothing of their own for: a program for one architecture that shall hold no more, or a measurement.
///   cuda::basic_stream_ref<cuda::rungs<cuda::rung::sm90>> where(stream);
template <rung... Rungs>
struct rungs {
  static constexpr bool has(rung r) { return ((r == Rungs) || ...); }
};

/// A tuning whose sums all have one order, however many rows there are: a row's result has the same bits in every batch. On one of the older rungs, with
/// a tile between those for few slots and for many; prompts are attended to token by token. Absorbed latent attention keeps its clusters, which join in one order.
///   cuda::basic_stream_ref<cuda::in_one_order<>> where(stream);
template <class Tuning = default_tuning>
struct in_one_order : Tuning {
  static constexpr bool one_order = true;
};

template <class Tuning>
inline constexpr bool sums_in_one_order = requires { requires Tuning::one_order; };

/// The highest rung that the tuning has and an architecture runs. wgmma is of sm_90a alone: later architectures take sm80's kernels.
template <class Tuning>
constexpr rung best_rung(int architecture) {
  if (Tuning::has(rung::sm90) && architecture == 90) return rung::sm90;
  if (Tuning::has(rung::sm80) && architecture >= 80) return rung::sm80;
  return rung::simt;
}

/// What a multiprocessor has: the limits that every tuning is checked against.
struct architecture_limits {
  std::int64_t shared_bytes;             ///< dynamic shared memory of a block
  int registers = 65536;                 ///< 32-bit, of a multiprocessor
  int threads_of_block = 1024;
  int registers_of_thread = 255;
};
constexpr architecture_limits limits_of(int architecture) {
  switch (architecture) {
    case 70: return {96 * 1024};
    case 75: return {64 * 1024};
    case 80: case 87: return {163 * 1024};
    case 90: case 100: case 103: return {227 * 1024};
    default: return {99 * 1024};         // 86, 89, 120
  }
}

}  // namespace moesaic::cuda
