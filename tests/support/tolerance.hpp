// How far a result may lie from the exact one, by activation type: the only place where a test takes such a number from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <type_traits>

#include <moesaic/base/floats.hpp>

namespace moesaic::test {

/// Largest error of an oracle stage, relative to the largest magnitude of its row.
///   double  1e-10   the oracle's own figures carry about 1e-14
///   float   1e-5    2^-24 a rounding; a stage is at most a few sums of some hundred terms away from its input
///   bf16    2^-6    2^-9 a rounding (nearest); a stage is about eight roundings away from the block's input
template <class T>
inline constexpr double stage_tolerance = std::is_same_v<T, double> ? 1e-10 : std::is_same_v<T, float> ? 1e-5 : 0x1p-6;

/// Unit roundoff: half the distance of neighbouring values, relative.
template <class T>
inline constexpr double roundoff = std::is_same_v<T, double> ? 0x1p-53 : std::is_same_v<T, float> ? 0x1p-24 : 0x1p-8;

/// Bound of a sum of `terms` products relative to the sum of their magnitudes (Higham: n u), and one rounding of the result to T.
template <class T>
constexpr double sum_tolerance(long terms) {
  auto const inner = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
  return static_cast<double>(terms + 1) * inner + roundoff<T>;
}

}  // namespace moesaic::test
