// 16 double lanes as plain C++ loops, under the façade's names: a body file compiled for them is its own reference.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include <moesaic/base/macros.hpp>
#include <moesaic/host/simd/simd.hpp>

namespace moesaic::host::in_double {

struct here {};

inline constexpr int block_rows = 4, block_panels = 1;

struct f64 {
  double lane[16];
};

template <class F>
MOESAIC_HOST f64 each(F f) {
  f64 y;
  for (int i = 0; i < 16; ++i) y.lane[i] = f(i);
  return y;
}

MOESAIC_HOST f64 set1(double x) {
  return each([&](int) { return x; });
}
MOESAIC_HOST f64 load(double const* p) {
  f64 y;
  std::memcpy(&y, p, sizeof y);
  return y;
}
MOESAIC_HOST f64 load(double const* p, std::int64_t count) {
  return each([&](int i) { return i < count ? p[i] : 0.0; });
}
MOESAIC_HOST f64 load(float const* p) {
  return each([&](int i) { return static_cast<double>(p[i]); });
}
MOESAIC_HOST f64 load(float const* p, std::int64_t count) {
  return each([&](int i) { return i < count ? static_cast<double>(p[i]) : 0.0; });
}
MOESAIC_HOST void store(double* p, f64 const& x) { std::memcpy(p, &x, sizeof x); }
MOESAIC_HOST void store(double* p, f64 const& x, std::int64_t count) {
  for (std::int64_t i = 0; i < count; ++i) p[i] = x.lane[i];
}

// Rounded twice, or once where the compiler contracts it: either is within the reference's bound.
MOESAIC_HOST f64 fma(f64 const& a, f64 const& b, f64 const& c) {
  return each([&](int i) { return a.lane[i] * b.lane[i] + c.lane[i]; });
}
MOESAIC_HOST f64 add(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] + b.lane[i]; });
}
MOESAIC_HOST f64 sub(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] - b.lane[i]; });
}
MOESAIC_HOST f64 mul(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] * b.lane[i]; });
}
// The second operand where one is NaN, as in the other façades.
MOESAIC_HOST f64 max(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i]; });
}
MOESAIC_HOST f64 min(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] < b.lane[i] ? a.lane[i] : b.lane[i]; });
}
MOESAIC_HOST f64 div(f64 const& a, f64 const& b) {
  return each([&](int i) { return a.lane[i] / b.lane[i]; });
}
MOESAIC_HOST f64 tanh(f64 const& a) {
  return each([&](int i) { return std::tanh(a.lane[i]); });
}
MOESAIC_HOST f64 exp(f64 const& a) {
  return each([&](int i) { return std::exp(a.lane[i]); });
}
// Far half onto near half, until one is left.
MOESAIC_HOST double sum(f64 a) {
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) a.lane[i] += a.lane[i + half];
  return a.lane[0];
}

}  // namespace moesaic::host::in_double

namespace moesaic::host {

/// f(here) with the tag of a level's namespace, or of the plain doubles, which have no levels.
template <class T, class F>
decltype(auto) at_level(level l, F&& f) {
  if constexpr (std::is_same_v<T, double>)
    return f(in_double::here{});
  else
    return at_level(l, f);
}

}  // namespace moesaic::host
