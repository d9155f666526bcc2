// How far a result may lie from the exact one, by activation type: the only place where a test takes such a number from.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include <moesaic/base/floats.hpp>

namespace moesaic::test {

/// Largest error of a stage, relative to the largest magnitude of its row.
///   double  1e-10   against a formula; against an oracle's file see below
///   float   1e-5    2^-24 a rounding; a stage is at most a few sums of some hundred terms away from its input
///   bf16    2^-6    of a stage computed from the oracle's own inputs, see below
/// One rounding to bf16 is off by at most u = 2^-8, with an rms of 0.4 u. The roundings of both sides are independent: n of them add up
/// to 0.4 √n u; the largest of a thousand values is 3.5 times that, and a row's largest magnitude at least twice the usual one: 0.7 √n u.
/// The bounds are twice what this gives, as powers of two. A feed-forward, the longest stage, has n = 9, most of them the reference's: 4 u.
template <class T>
inline constexpr double stage_tolerance = std::is_same_v<T, double> ? 1e-10 : std::is_same_v<T, float> ? 1e-5 : 0x1p-6;

/// The same for what the reference rounds more often at bf16 than a stage here, n ≤ 49: 8 u.
///   attn_heads   it rounds a score s twice, which is never rounded here: that moves a weight by 0.4 √2 |s| u, and the oracles' weighted
///                scores have an rms of up to 5
///   moe_out and what follows it: k products and k sums one by one, where slots are summed in float here: n = 9 + 2 k
template <class T>
inline constexpr double long_stage_tolerance = std::is_same_v<T, bf16> ? 0x1p-5 : stage_tolerance<T>;

/// The same against an oracle's file, whose figures at double carry about 1e-14.
template <class T>
inline constexpr double oracle_tolerance = std::is_same_v<T, double> ? 1e-12 : stage_tolerance<T>;
/// The only exception at double, of cosines and sines: an angle of so many turns carries the roundings of its frequency and of their product.
inline double turned_tolerance(double position) { return oracle_tolerance<double> + 4 * 0x1p-53 * position; }

/// The same where the reference's own code at float is further from the exact result than is usual, as its file says: at most four times as far.
inline double shipped_tolerance(double usual, double shipped) { return std::min(std::max(usual, shipped), 4 * usual); }

/// The same against a decoder's file. A bf16 run starts at the embedding and nothing is handed on: about 20 roundings a layer in the reference, which rounds
/// each elementary operation, and 10 here. n = 30 · layers: 8 √layers u.
template <class T>
double run_tolerance(int layers) {
  return std::is_same_v<T, bf16> ? 0x1p-5 * std::sqrt(static_cast<double>(layers)) : oracle_tolerance<T>;
}

/// Unit roundoff: half the distance of neighbouring values, relative.
template <class T>
inline constexpr double roundoff = std::is_same_v<T, double> ? 0x1p-53 : std::is_same_v<T, float> ? 0x1p-24 : 0x1p-8;

/// Of a router's scores and weights, relative to their size or to 1: an exponential, a sum over the experts, a quotient or two.
template <class T>
inline constexpr double routing_tolerance = 128 * roundoff<T>;

/// Distance from a number that was printed with `digits` digits after the point.
template <class T>
constexpr double printed_tolerance(double printed, int digits = 6) {
  double half = 0.5;
  for (int i = 0; i < digits; ++i) half /= 10;
  return half * (1 + 1e-9) + routing_tolerance<T> * (printed < 0 ? -printed : printed);
}

/// Bound of a sum of `terms` products relative to the sum of their magnitudes (Higham: n u), and one rounding of the result to T.
template <class T>
constexpr double sum_tolerance(long terms) {
  auto const inner = std::is_same_v<T, double> ? 0x1p-53 : 0x1p-24;
  return static_cast<double>(terms + 1) * inner + roundoff<T>;
}

/// Distance of a mean of independent samples from what is expected: four standard errors, which one mean in 16,000 passes.
inline double mean_tolerance(double deviation, double samples) { return 4 * deviation / std::sqrt(samples); }

/// Distance of a price that has settled from the one bisection finds over the same tokens, where the mean cost falls by 1 or more a unit of
/// price: in stairs of 1 / tokens, whose treads are as wide as chance has it, one in 20,000 ten times the mean.
constexpr double tread_tolerance(std::int64_t tokens) { return 10.0 / static_cast<double>(tokens); }

/// Largest error of a derivative against central differences in double, relative to the largest of them. With steps of 1e-5 a difference is
/// itself off by about 1e-10 (step²) and 1e-11 (rounding over step) of a loss of order 1.
inline constexpr double difference_tolerance = 1e-6;

}  // namespace moesaic::test
