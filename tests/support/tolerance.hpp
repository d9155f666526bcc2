// How far a result may lie from the exact one, by activation type: the only place where a test takes such a number from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <type_traits>

#include <moesaic/base/floats.hpp>

namespace moesaic::test {

/// Largest error of an oracle stage, relative to the largest magnitude of its row.
///   double  1e-10   the oracle's own figures carry about 1e-14
///   float   1e-5    2^-24 a rounding; a stage is at most a few sums of some hundred terms away from its input
///   bf16    2^-6    four roundings of 2^-8, for a stage computed from the oracle's own inputs: at most two in sequence on either side,
///                   or more of which none has the size of the row's largest value
template <class T>
inline constexpr double stage_tolerance = std::is_same_v<T, double> ? 1e-10 : std::is_same_v<T, float> ? 1e-5 : 0x1p-6;

/// The same where a bf16 run starts at the embedding and nothing is handed on. A layer has about 20 roundings in the reference (it rounds each
/// elementary operation) and 10 here. They are independent, each with an rms of 0.4 unit roundoffs (uniform within half a step, averaged over
/// a binade): √(30 · layers) · 0.4 · 2^-8; and the largest of some thousand values is 3.5 times the rms: 2^-5 · √layers.
template <class T>
inline double run_tolerance(int layers) {
  return std::is_same_v<T, bf16> ? 0x1p-5 * std::sqrt(static_cast<double>(layers)) : stage_tolerance<T>;
}

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
