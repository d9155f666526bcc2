// exp, log and pow of doubles as constant expressions, which the standard library's are not in C++20.
// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <cstdint>

#include <moesaic/base/bits.hpp>
#include <moesaic/base/macros.hpp>

/// For numbers that are known when a program is compiled: budgets, scaling laws. Within 1e-15 of the true value, relative (pow: times
/// 1 + |exponent · log base|). At run time <cmath> is faster.
namespace moesaic::constant_math {

namespace detail {
inline constexpr double ln2 = 0.6931471805599453094, ln2_high = 0x1.62e42feep-1, ln2_low = 0x1.a39ef35793c76p-33;

// 2^n of a normal number.
MOESAIC_FN constexpr double power_of_two(std::int64_t n) { return bit_cast<double>(static_cast<std::uint64_t>(n + 1023) << 52); }
}  // namespace detail

MOESAIC_FN constexpr double exp(double x) {
  if (x != x) return x;
  if (x > 709.79) return infinity<double>;
  if (x < -745.2) return 0;
  auto const n = static_cast<std::int64_t>(x / detail::ln2 + (x < 0 ? -0.5 : 0.5));
  auto const r = (x - static_cast<double>(n) * detail::ln2_high) - static_cast<double>(n) * detail::ln2_low;   // |r| <= ln2 / 2
  double sum = 1;
  for (int i = 14; i > 0; --i) sum = 1 + sum * r / i;
  return sum * detail::power_of_two(n / 2) * detail::power_of_two(n - n / 2);   // in two steps, since the result may be subnormal
}

/// −∞ of 0, NaN of what is negative.
MOESAIC_FN constexpr double log(double x) {
  if (x != x || x == infinity<double>) return x;
  if (x < 0) return not_a_number<double>;
  if (x == 0) return -infinity<double>;
  std::int64_t exponent = 0;
  if (x < 0x1p-1022) {
    x *= 0x1p54;
    exponent = -54;
  }
  auto const word = bit_cast<std::uint64_t>(x);
  exponent += static_cast<std::int64_t>(word >> 52) - 1023;
  auto mantissa = bit_cast<double>((word & 0x000f'ffff'ffff'ffffu) | 0x3ff0'0000'0000'0000u);
  if (mantissa > 1.4142135623730951) {
    mantissa /= 2;
    ++exponent;
  }
  auto const s = (mantissa - 1) / (mantissa + 1), square = s * s;   // log m = 2 atanh s, |s| < 0.172
  double sum = 0;
  for (int i = 25; i > 0; i -= 2) sum = sum * square + 1.0 / i;
  return static_cast<double>(exponent) * detail::ln2_high + (2 * s * sum + static_cast<double>(exponent) * detail::ln2_low);
}

/// Of a base that is not negative.
MOESAIC_FN constexpr double pow(double base, double exponent) {
  if (exponent == 0 || base == 1) return 1;
  return exp(exponent * log(base));
}

}  // namespace moesaic::constant_math
